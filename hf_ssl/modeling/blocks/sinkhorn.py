"""Soft assignments of samples to prototypes that use all prototypes equally."""

# B samples of this process, N samples of all processes, K prototypes

import torch
from torch import Tensor

from hf_ssl.modeling.blocks.gather import gather_with_gradient, sum_over_processes


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, num_iterations: int, weights: Tensor | None = None) -> Tensor:
    """The Sinkhorn–Knopp algorithm: scales `exp(scores / ε)` until samples and prototypes have equal weight.

    Of all assignments that use every prototype equally, it approaches the one with the highest
    `Tr(Qᵀ scores) + ε H(Q)` (Caron et al. 2020, arXiv:2006.09882, Eq. 3 to 5). An iteration gives every prototype the
    weight of every other, then every sample the weight 1. It is the scaling of both sides that is iterated, and the
    matrix stays as it is: that costs two products with a vector an iteration.

    In fp32 with autocast off. The first iteration is done on logarithms; after it, each row and each column holds an
    entry of at least `1 / N`, so that nothing overflows or vanishes, however small ε is.

    Args:
        scores (`Tensor` of shape `(B, K)`): of this process's samples; processes may have different B.
        epsilon (`float`): ε > 0: the smaller, the sharper the assignments.
        num_iterations (`int`): at least 1.
        weights (`Tensor` of shape `(B,)`, *optional*): fp32, 1 for a sample that counts, 0 for one that the others are
            not to notice; of all processes' samples one at least counts.

    Returns:
        `Tensor` of shape `(B, K)`, fp32: rows sum to 1; columns sum to `N / K` over all processes, more exactly so
        the more iterations there are.
    """
    with torch.autocast(scores.device.type, enabled=False):
        logits = scores.float() / epsilon
        # the first iteration's prototypes: the sum over all samples that count
        counting = logits if weights is None else logits + weights.log()[:, None]
        logits = logits - gather_with_gradient(counting.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0)
        matrix = (logits - logits.amax(dim=1, keepdim=True)).exp()
        of_prototypes = torch.ones_like(matrix[0])
        of_samples = 1 / matrix.sum(dim=1)  # the first iteration's samples
        for _ in range(num_iterations - 1):
            counting = of_samples if weights is None else of_samples * weights
            columns = sum_over_processes(counting @ matrix)
            of_prototypes = columns.mean() / columns  # equal columns, whatever they sum to: rows are next
            of_samples = 1 / (matrix @ of_prototypes)
        return of_samples[:, None] * matrix * of_prototypes

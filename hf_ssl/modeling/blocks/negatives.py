"""Telling the target of a position from the targets of other positions of the same row."""

# B rows, P positions of a row, K negatives of a position, D dimensions, N numbers of a vector

import torch
from torch import Tensor
from torch.nn import functional as F

MULTIPLIER = 6364136223846793005
"""Of a linear congruential generator modulo 2⁶⁴ (Knuth's MMIX)."""


def draw_negatives(num_positions: int, num_negatives: int, generator: torch.Generator) -> Tensor:
    """For each position, negatives drawn uniformly and with replacement from the others.

    Args:
        num_positions (`int`): P.
        num_negatives (`int`): K.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.

    Returns:
        `Tensor` of shape `(P, K)`, int64 in 0 … P − 1, in row i without i; of a single position, which has no
            negatives, itself (which [`contrastive_logits`] leaves out).
    """
    drawn = torch.randint(max(num_positions - 1, 1), (num_positions, num_negatives), generator=generator)
    return (drawn + (drawn >= torch.arange(num_positions)[:, None])).clamp(max=num_positions - 1)


def contrastive_logits(
    predictions: Tensor, targets: Tensor, identities: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """The cosines of every prediction with its target and with its negatives, over a temperature.

    Equation 3 of wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477) is the cross entropy of these logits with class
    0. One product of all pairs of a row, from which columns are gathered, instead of a (K + 1, B, P, D) tensor.

    Args:
        predictions (`Tensor` of shape `(B, P, D)`): what the context says of each position.
        targets (`Tensor` of shape `(B, P, D)`): what it should say.
        identities (`Tensor` of shape `(B, P)`): equal numbers where two targets are the same, see [`fingerprint`]: a
            negative that is the same as the target has no part in the softmax.
        negatives (`Tensor` of shape `(B, P, K)`): positions of the row, of [`draw_negatives`].
        temperature (`float`): > 0.

    Returns:
        `Tensor` of shape `(B, P, 1 + K)`, fp32 even under autocast: the target first. A negative that is left out has
            the lowest finite number, so that neither the loss nor its gradient can be NaN.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        cosines = F.normalize(predictions.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).mT  # (B, P, P)
    logits = cosines.gather(2, negatives) / temperature  # (B, P, K)
    same = identities.gather(1, negatives.flatten(1)).view_as(negatives) == identities[..., None]
    logits = logits.masked_fill(same, torch.finfo(logits.dtype).min)
    return torch.cat([cosines.diagonal(dim1=1, dim2=2)[..., None] / temperature, logits], dim=-1)


def fingerprint(vectors: Tensor) -> Tensor:
    """A hash of each vector, to compare all of them with all without a (P, P, N) tensor.

    A polynomial of the numbers' bits modulo 2⁶⁴; in integers, so that no rounding tells equal vectors apart.

    Args:
        vectors (`Tensor` of shape `(..., N)`): compared in fp32.

    Returns:
        `Tensor` of shape `(...)`, int64: equal for equal vectors, else different but by a chance of about 2⁻⁶⁴.
    """
    bits = vectors.detach().float().view(torch.int32).long()
    powers = torch.full((vectors.shape[-1],), MULTIPLIER, device=vectors.device).cumprod(dim=0)
    return (bits * powers).sum(dim=-1)

"""Numbers that tell a collapsed representation before any evaluation does.

Pure functions of detached tensors, in fp32 whatever the autocast, that stay on the device of their input. The training
log is their user. Nothing waits for the device, except that `effective_rank` on CUDA does inside the singular value
decomposition: call it when something is logged, not at every step.
"""

# M examples, D dimensions of their features, N predictions, V classes

import torch
from torch import Tensor
from torch.nn.functional import normalize

MAX_ROWS = 1024
"""Rows that `effective_rank` looks at, evenly spaced: it bounds the decomposition, which costs O(M D min(M, D))."""


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation over the examples of each dimension of the L2-normalised features, averaged over dimensions.

    SimSiam (Chen & He 2020, https://arxiv.org/abs/2011.10566, section 4.1): near 1/√D when directions are spread
    evenly, 0 when all examples have the same one.

    Args:
        features (`Tensor`): (M, D), M > 1.

    Returns:
        scalar `Tensor` in [0, 1/√D · √(M/(M-1))].
    """
    return normalize(features.float(), dim=-1).std(dim=0).mean()


def effective_rank(features: Tensor) -> Tensor:
    """Over how many dimensions the features are spread: the exponential of the entropy of their singular values.

    RankMe (Garrido et al. 2022, https://arxiv.org/abs/2210.02885, equation 1): `exp(-Σ p_k log p_k)` with `p_k = σ_k /
    Σ σ + 1e-7`, without centring. Of more than `MAX_ROWS` examples an evenly spaced subset is used, so values compare
    only between equal M.

    Args:
        features (`Tensor`): (M, D).

    Returns:
        scalar `Tensor` in [1, min(M, D)] up to rounding: 1 for features that are all multiples of one vector; NaN for
            features that are not finite.
    """
    features = features[:: -(-len(features) // MAX_ROWS)].float()
    finite = features.isfinite().all()
    singular_values = torch.linalg.svdvals(features.where(finite, 0.0))
    share = singular_values / singular_values.sum().clamp_min(torch.finfo(torch.float32).tiny) + 1e-7
    return torch.exp(-(share * share.log()).sum()).where(finite, torch.nan)


def prediction_perplexity(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes are predicted evenly: the exponential of the entropy of the mean predicted distribution.

    Args:
        logits (`Tensor`): (N, V).
        targets (`Tensor`): (N,), int; rows with a negative one are no predictions.

    Returns:
        scalar `Tensor` in [1, V]: 1 when every prediction is surely the same class; V when the predictions are spread
            evenly, be each of them sure or not.
    """
    counted = (targets >= 0)[:, None]
    mean = (logits.float().softmax(dim=-1) * counted).sum(dim=0) / counted.sum().clamp(min=1)
    return torch.exp(-torch.special.xlogy(mean, mean).sum())


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of predictions whose highest score is the target's.

    A row whose scores are all equal predicts nothing and is wrong: with collapsed scores `argmax` is always 0, which
    is the target of every contrastive prediction (wav2vec 2.0's criterion leaves such rows out in the same way).

    Args:
        logits (`Tensor`): (N, V).
        targets (`Tensor`): (N,), int; rows with a negative one are no predictions.

    Returns:
        scalar `Tensor` in [0, 1].
    """
    right = (logits.argmax(dim=-1) == targets) & (logits.amax(dim=-1) > logits.amin(dim=-1))
    return right.sum() / (targets >= 0).sum().clamp(min=1)

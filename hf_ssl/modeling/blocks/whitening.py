"""Principal components of equal variance."""

# N vectors, D dimensions, P components

import torch
from torch import Tensor

ROWS_AT_ONCE = 2**14
SMALLEST_VARIANCE = 1e-6
"""Relative to the largest: components of less are rounding errors, which are not blown up."""


def whitening(vectors: Tensor, num_components: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """The mean of the vectors, and what projects them on principal components of variance 1.

    `(vectors - mean) @ projection` has the identity as its covariance, up to components without variance, which are
    left out as zeros. Second moments are added up in fp64, a part of the vectors at a time.

    Args:
        vectors (`Tensor` of shape `(N, D)`): on any device, which need not hold them at once on `device`.
        num_components (`int`): P, at most D are found.
        device (`str` or `torch.device`): where the arithmetic runs.

    Returns:
        mean (`Tensor` of shape `(D,)`): fp32, on `device`.
        projection (`Tensor` of shape `(D, min(P, D))`): fp32; the components with the largest variance first.
    """
    size = vectors.shape[1]
    mean = vectors.mean(dim=0, dtype=torch.float64).to(device)
    covariance = torch.zeros(size, size, dtype=torch.float64, device=device)
    for part in vectors.split(ROWS_AT_ONCE):
        centred = part.to(device).double() - mean
        covariance += centred.T @ centred / len(vectors)
    variances, directions = torch.linalg.eigh(covariance)  # in ascending order
    variances, directions = variances.flip(0)[:num_components], directions.flip(1)[:, :num_components]
    scales = torch.where(variances > SMALLEST_VARIANCE * variances[0], variances.rsqrt(), 0.0)
    return mean.float(), (directions * scales).float()

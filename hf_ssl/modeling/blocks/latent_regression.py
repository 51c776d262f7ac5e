"""What data2vec regresses: the mean of a teacher's upper layers, each normalised over time."""

# N rows, T frames, P positions (masked frames), D features

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to a variance over time (what PyTorch's instance norm adds)."""


def normalise_over_time(frames: Tensor, is_frame: Tensor) -> Tensor:
    """Instance normalisation: every channel of every row has mean 0 and variance 1 over the row's own frames.

    Args:
        frames (`Tensor` of shape `(N, T, D)`): one layer.
        is_frame (boolean `Tensor` of shape `(N, T)`): `False` = padding, which does not enter the statistics.

    Returns:
        `Tensor` of shape `(N, T, D)`, fp32: 0 at padding.
    """
    is_frame = is_frame[..., None]
    count = is_frame.sum(dim=1, keepdim=True)
    frames = frames.float()
    mean = torch.where(is_frame, frames, 0.0).sum(dim=1, keepdim=True) / count
    centred = torch.where(is_frame, frames - mean, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred * torch.rsqrt(variance + EPSILON)


def average_layers(layers: Sequence[Tensor], is_frame: Tensor) -> Tensor:
    """The mean over layers, each normalised over time: data2vec's targets (arXiv:2202.03555, section 3.3).

    Args:
        layers (sequence of `Tensor` of shape `(N, T, D)`): of the teacher, at least one.
        is_frame (boolean `Tensor` of shape `(N, T)`): `False` = padding.

    Returns:
        `Tensor` of shape `(N, T, D)`, fp32.
    """
    total = normalise_over_time(layers[0], is_frame)
    for layer in layers[1:]:
        total = total + normalise_over_time(layer, is_frame)
    return total / len(layers)


def regression_errors(predictions: Tensor, targets: Tensor) -> Tensor:
    """The error of each prediction, `‖prediction − target‖² / √D`.

    Args:
        predictions (`Tensor` of shape `(N, P, D)`): of the student.
        targets (`Tensor` of shape `(N, P, D)`): fp32.

    Returns:
        `Tensor` of shape `(N, P)`, fp32.
    """
    return (predictions.float() - targets).square().sum(dim=-1) / math.sqrt(targets.shape[-1])


@torch.no_grad()
def channel_std(frames: Tensor, is_counted: Tensor) -> Tensor:
    """How far frames spread: the standard deviation of each channel, averaged over the channels.

    Near 0 when all frames say the same: the collapse of a student that is its own teacher.

    Args:
        frames (`Tensor` of shape `(N, P, D)`): targets or predictions.
        is_counted (boolean `Tensor` of shape `(N, P)`): `False` = fills the rectangle.

    Returns:
        scalar `Tensor`, fp32: 0.001 when there is no spread at all (the reference adds 1e-6 to the variances).
    """
    is_counted = is_counted[..., None]
    count = is_counted.sum()
    frames = frames.float()
    mean = torch.where(is_counted, frames, 0.0).sum(dim=(0, 1)) / count.clamp(min=1)
    centred = torch.where(is_counted, frames - mean, 0.0)
    variance = centred.square().sum(dim=(0, 1)) / (count - 1).clamp(min=1)
    return torch.sqrt(variance + 1e-6).mean()

"""What data2vec and I-JEPA regress: a teacher's layers, normalised and averaged, and the error of a prediction."""

# N rows, T frames or patches, P positions (masked ones), D features

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


def normalise_features(vectors: Tensor) -> Tensor:
    """Layer normalisation without scale and shift: each vector (..., D) gets mean 0 and variance 1, in fp32."""
    return F.layer_norm(vectors.float(), vectors.shape[-1:])


def average_blocks(layers: Sequence[Tensor]) -> Tensor:
    """The mean over layers, each vector normalised before and after: data2vec's targets for images.

    Reference: facebookresearch/data2vec_vision, `beit/engine_for_cyclical.py`, commit af9a363, with the settings of
    its README.

    Args:
        layers (sequence of `Tensor` of shape `(N, T, D)`): outputs of whole blocks of the teacher, at least one.

    Returns:
        `Tensor` of shape `(N, T, D)`, fp32.
    """
    total = normalise_features(layers[0])
    for layer in layers[1:]:
        total = total + normalise_features(layer)
    return normalise_features(total / len(layers))


def smooth_l1_errors(predictions: Tensor, targets: Tensor, beta: float) -> Tensor:
    """The error of each prediction: the mean over features of `½ e²/β` where |e| < β, and `|e| − ½ β` elsewhere.

    Args:
        predictions (`Tensor` of shape `(..., D)`): of the student.
        targets (`Tensor` of shape `(..., D)`): fp32.
        beta (`float`): β > 0.

    Returns:
        `Tensor` of shape `(...)`, fp32.
    """
    return F.smooth_l1_loss(predictions.float(), targets, beta=beta, reduction="none").mean(dim=-1)


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

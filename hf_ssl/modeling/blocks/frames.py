"""How a stack of strided convolutions turns samples into frames, and which label a frame has.

For every encoder whose config describes its waveform front end by `conv_kernel` and `conv_stride` (the wav2vec 2.0
family). With the published stack a frame comes every 320 samples (20 ms at 16 kHz) and sees 400 (25 ms).
"""

import math

import torch
from torch import Tensor
from transformers import PreTrainedConfig

IGNORED = -100
"""The label of a frame that is not predicted (what `cross_entropy` ignores by default)."""


def num_frames(encoder_config: PreTrainedConfig, num_samples: int) -> int:
    """Frames that the front end makes of `num_samples` samples: ⌊(T − k)/s⌋ + 1 per layer; 0 if there are too few."""
    length = num_samples
    for kernel, stride in zip(encoder_config.conv_kernel, encoder_config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        if length < 1:
            return 0
    return length


def downsampling(encoder_config: PreTrainedConfig) -> int:
    """Samples from one frame to the next."""
    return math.prod(encoder_config.conv_stride)


def receptive_field(encoder_config: PreTrainedConfig) -> int:
    """Samples that one frame sees: the shortest waveform that has a frame."""
    samples = 1
    for kernel, stride in zip(reversed(encoder_config.conv_kernel), reversed(encoder_config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def labels_at_frames(labels: Tensor, num_frames: int, labels_per_frame: float) -> Tensor:
    """Picks each frame's label from labels of another rate: frame t takes label ⌊t · labels_per_frame⌋.

    Args:
        labels (`Tensor` of shape `(T_labels,)`): of one recording, from the same start as the frames.
        num_frames (`int`): T.
        labels_per_frame (`float`): the rate of the labels over that of the frames.

    Returns:
        `Tensor` of shape `(num_frames,)`, int64: [`IGNORED`] where the labels have ended.
    """
    positions = (torch.arange(num_frames, dtype=torch.float64) * labels_per_frame).long()
    positions = positions[positions < len(labels)]
    aligned = torch.full((num_frames,), IGNORED)
    aligned[: len(positions)] = labels[positions]
    return aligned

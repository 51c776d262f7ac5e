"""Some frames of every row, as a rectangle: which ones is decided on the CPU, so that a GPU never has to count them.

Choosing frames by a boolean mask (`hidden[mask]`) makes the host wait for the accelerator, since the shape of the
result depends on the mask's values.
"""

# B rows, T frames, P positions of the row that has most, D features

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

NOWHERE = -1
"""What fills the rows that have fewer positions than the longest."""


def positions_of(mask: Tensor) -> Tensor:
    """Where a mask is true.

    Args:
        mask (boolean `Tensor` of shape `(B, T)`): on the CPU.

    Returns:
        `Tensor` of shape `(B, P)`, int64: the frames of each row in their order, then [`NOWHERE`]; P ≥ 1.
    """
    rows = [row.nonzero()[:, 0] for row in mask]
    positions = pad_sequence(rows, batch_first=True, padding_value=NOWHERE)
    return positions if positions.shape[1] else torch.full((len(mask), 1), NOWHERE)


def take_frames(frames: Tensor, positions: Tensor) -> Tensor:
    """The frames at the positions.

    Args:
        frames (`Tensor` of shape `(B, T, D)`): of every row.
        positions (`Tensor` of shape `(B, P)`): of [`positions_of`].

    Returns:
        `Tensor` of shape `(B, P, D)`: the first frame of a row where there is no position.
    """
    index = positions.clamp(min=0)[..., None].expand(-1, -1, frames.shape[-1])
    return frames.gather(1, index)


def put_frames(frames: Tensor, positions: Tensor, num_frames: int) -> Tensor:
    """The inverse of [`take_frames`].

    Args:
        frames (`Tensor` of shape `(B, P, D)`): what is put at the positions; ignored where there is no position.
        positions (`Tensor` of shape `(B, P)`): each at most once in a row.
        num_frames (`int`): T.

    Returns:
        `Tensor` of shape `(B, T, D)`: 0 where nothing is put.
    """
    there = frames.new_zeros(len(frames), num_frames + 1, frames.shape[-1])  # the last takes what is nowhere
    index = positions.where(positions != NOWHERE, num_frames)[..., None].expand_as(frames)
    return there.scatter(1, index, frames)[:, :num_frames]


def take_labels(labels: Tensor, positions: Tensor, fill: int) -> Tensor:
    """The labels (B, T) at the positions (B, P), and `fill` where there is no position: `(B, P)`."""
    return labels.gather(1, positions.clamp(min=0)).masked_fill(positions == NOWHERE, fill)

"""A memory of the rows of past steps: MoCo's keys, NNCLR's neighbours, SwAV's features."""

# K rows that are kept, B rows of this process, R processes, D dimensions

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.gather import gather_with_gradient


class MemoryQueue(nn.Module):
    """The last K rows, first in, first out; saved with the model, equal on all processes.

    What a forward pass pushes waits until [`commit`] is called once per optimiser step, so that all micro-batches of
    a step see the same rows, and a forward pass that is run twice (activation checkpointing) changes nothing.

    A model that holds one empties it in its `_init_weights` with [`empty`], since transformers builds models without
    values.

    Args:
        size (`int`): K.
        dim (`int`): D.

    Raises:
        InputError: for a queue that holds nothing.
    """

    rows: Tensor
    pointer: Tensor
    num_filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"The queue's size is {size}; give at least 1.")
        self.register_buffer("rows", torch.empty(size, dim))
        self.register_buffer("pointer", torch.empty((), dtype=torch.long))
        self.register_buffer("num_filled", torch.empty((), dtype=torch.long))
        self.waiting: list[Tensor] = []
        self.empty()

    @torch.no_grad()
    def empty(self) -> None:
        """Begin anew: random unit vectors, the same for every queue of this size, until there are rows."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(self.rows.shape, generator=generator, device="cpu")
        init.copy_(self.rows, F.normalize(rows, dim=1))
        init.zeros_(self.pointer)
        init.zeros_(self.num_filled)

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Let rows (B, D) of this process wait for [`commit`]."""
        self.waiting.append(rows.detach().to(self.rows.dtype))
        while sum(map(len, self.waiting)) - len(self.waiting[0]) >= len(self.rows):
            self.waiting.pop(0)  # none of them would stay

    @torch.no_grad()
    def commit(self) -> None:
        """Take in the waiting rows of all processes, over the oldest."""
        if not self.waiting:
            return
        # no gradient is recorded here, so this is a plain gather
        rows = gather_with_gradient(torch.cat(self.waiting))[-len(self.rows) :]
        self.waiting.clear()
        positions = (self.pointer + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[positions] = rows
        self.pointer.copy_((self.pointer + len(rows)) % len(self.rows))
        self.num_filled.copy_((self.num_filled + len(rows)).clamp(max=len(self.rows)))

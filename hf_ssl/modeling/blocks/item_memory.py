"""A memory of what an objective last computed of each training item."""

# N items, B of them in the batch of this process

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_ssl.modeling.blocks.gather import gather_with_gradient


class ItemMemory(nn.Module):
    """Rows by the number of their item; saved with the model, equal on all processes.

    What a forward pass pushes waits until [`commit`] is called once per optimiser step, so that a forward pass that is
    run twice changes nothing.

    Args:
        num_items (`int`): N.
        shape (`int`): of an item's row.
    """

    rows: Tensor

    def __init__(self, num_items: int, *shape: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_items, *shape))
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def empty(self) -> None:
        """Forget all rows: zeros stand for them. For a model's `_init_weights`, see [`MemoryQueue`]."""
        init.zeros_(self.rows)

    @torch.no_grad()
    def push(self, item_indices: Tensor, rows: Tensor) -> None:
        """Let the rows (B, ...) of items (B,) of this process wait for [`commit`]."""
        self.waiting.append((item_indices, rows.detach().to(self.rows.dtype)))

    @torch.no_grad()
    def commit(self) -> None:
        """Write the waiting rows of all processes over what is there of their items."""
        if not self.waiting:
            return
        # no gradient is recorded here, so these are plain gathers
        item_indices, rows = (gather_with_gradient(torch.cat(parts)) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        self.rows[item_indices] = rows

"""What an objective asks of its trainer between two epochs: to go through all training items."""

# N training items, B of them in a batch

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class OverItems(Protocol):
    """Computes something of every training item, each process of its share of them."""

    def __call__(self, compute: Callable[[dict[str, Tensor]], Tensor], *, augmented: bool) -> Tensor:
        """The rows of all items.

        Args:
            compute (`Callable`): a batch of B items to rows (B, ...); it is called without gradient, and processes
                that compute batch statistics jointly call it equally often.
            augmented (`bool`): whether batches are those of the training, with views of their own, or have each item
                as the encoder's preprocessor gives it: `pixel_values` (B, C, H, W).

        Returns:
            `Tensor` of shape `(N, ...)`: in the order of the items, equal on all processes, on the CPU.
        """
        ...

"""Which adapter each row of the batch names, known to every layer while the batch is computed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ssl.errors import InputError

BASE = 0
"""The slot of rows that name no adapter."""


@dataclass
class Rows:
    """The rows of a batch by the slot of their adapter.

    Args:
        slots (`Tensor`, `(B,)`): the slot of each row; `BASE` is the bare base.
        distinct (`tuple[int, ...]`): the slots that occur. What is computed depends on these adapters alone, not on
            what else is loaded.
        last_hidden_state (`Tensor`, `(B, T, D)`, *optional*): what the encoder gave, as soon as it did.
    """

    slots: Tensor
    distinct: tuple[int, ...]
    last_hidden_state: Tensor | None = None

    @classmethod
    def of(cls, slots: Sequence[int], device: torch.device) -> "Rows":
        """Rows that name these slots."""
        return cls(torch.tensor(slots, device=device), tuple(sorted(set(slots))))

    def split(self, values: Tensor, where: str) -> Tensor:
        """The values of each row: `(B·W, ..., D)` → `(B, N, D)`, where a row has W windows (Swin) or is one (W = 1).

        Args:
            values (`Tensor`): the input of a layer, rows first.
            where (`str`): what kind of layer it is, for the error.

        Raises:
            InputError: for values that are not made of the batch's rows, such as relative positions.
        """
        num_rows = len(self.slots)
        if values.shape[0] % num_rows or (values.dim() == 2 and values.shape[0] != num_rows):
            raise InputError(
                f"A {where} is given {tuple(values.shape)} values in a batch of {num_rows} rows, so it cannot be told "
                "which are of which row; give this model batches whose rows all name the same adapter."
            )
        return values.reshape(num_rows, -1, values.shape[-1])


_CURRENT: ContextVar[Rows] = ContextVar("rows")


@contextmanager
def computing(rows: Rows) -> Iterator[None]:
    """Within it, `current_rows` gives these; each thread has its own."""
    token = _CURRENT.set(rows)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_rows() -> Rows:
    """The rows of the batch that is being computed."""
    return _CURRENT.get()

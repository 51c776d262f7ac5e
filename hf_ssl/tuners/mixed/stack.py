"""The same parameter of several adapters, stacked, so that a batch takes each row's by one gather."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_ssl.tuners.mixed.rows import Rows


class WeightStack(nn.Module):
    """A tensor a slot, zero-padded in their first dimension (ranks, classes) to the largest: `(S, n, ...)`.

    What is gathered is cut to the largest among the adapters of the batch. So the arithmetic of a batch does not
    depend on what else is loaded, and its results stay the same bits when other adapters come and go.

    Args:
        weights (`Sequence[Tensor]`, each `(n_s, ...)`): one a slot; all equal but for their first dimension.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.sizes = [len(weight) for weight in weights]
        size = max(self.sizes)
        self.stacked = _frozen(torch.stack([_padded(weight, size) for weight in weights]))

    @property
    def nothing(self) -> Tensor:
        """For the slot of an adapter that has none: of length 0."""
        return self.stacked[0, :0]

    def append(self, weight: Tensor) -> None:
        """Give it a slot more, with a copy of this tensor."""
        self.sizes.append(len(weight))
        size = max(self.sizes)
        old = F.pad(self.stacked, (*(0, 0) * (self.stacked.dim() - 2), 0, size - self.stacked.shape[1]))
        self.stacked = _frozen(torch.cat([old, _padded(weight.to(old), size)[None]]))

    def drop(self, slot: int) -> None:
        """Remove a slot; those after it move up."""
        del self.sizes[slot]
        kept = [index for index in range(len(self.stacked)) if index != slot]
        self.stacked = _frozen(self.stacked[kept, : max(self.sizes)].contiguous())

    def size(self, rows: Rows) -> int:
        """The largest first dimension among the adapters of the batch."""
        return max(self.sizes[slot] for slot in rows.distinct)

    def of_slot(self, slot: int) -> Tensor:
        """The tensor of one slot, without padding."""
        return self.stacked[slot, : self.sizes[slot]]

    def of_rows(self, rows: Rows) -> Tensor:
        """The tensor of each row, `(B, n, ...)`."""
        return self.stacked[:, : self.size(rows)].index_select(0, rows.slots)


def _frozen(weights: Tensor) -> nn.Parameter:
    return nn.Parameter(weights, requires_grad=False)


def _padded(weight: Tensor, size: int) -> Tensor:
    return F.pad(weight.detach(), (*(0, 0) * (weight.dim() - 1), 0, size - len(weight)))

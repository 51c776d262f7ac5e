"""Layers that compute each row of a batch with the weights of the adapter that the row names."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from hf_ssl.tuners.mixed.rows import current_rows
from hf_ssl.tuners.mixed.stack import WeightStack


@dataclass(frozen=True)
class LowRank:
    """What LoRA adds to a linear layer: `x A B`.

    Args:
        down (`Tensor`, `(r, in)`): A, transposed.
        up (`Tensor`, `(r, out)`): B, times the scaling α/r (α/√r with rank stabilisation).
    """

    down: Tensor
    up: Tensor
    kind: ClassVar[str] = "lora"


@dataclass(frozen=True)
class Whole:
    """A layer that an adapter has trained and saved whole, such as one of its head's.

    Args:
        weight (`Tensor`): `(out, in)` of a linear layer, `(D,)` of a layer normalisation.
        bias (`Tensor`, *optional*): `(out,)` or `(D,)`.
    """

    weight: Tensor
    bias: Tensor | None
    kind: ClassVar[str] = "whole"


@dataclass(frozen=True)
class Squeezed:
    """A bottleneck adapter: `W_up σ(W_down x + b_down) + b_up`, times its scaling.

    Args:
        variant (`str`): where it stands, see [`BottleneckConfig`].
        activation (`str`): σ, by its name in transformers.
        down (`Tensor`, `(r, d)`): W_down.
        down_bias (`Tensor`, `(r,)`): b_down.
        up (`Tensor`, `(r, d)`): W_up, transposed, times the scaling.
        up_bias (`Tensor`, `(d,)`): b_up, times the scaling.
    """

    variant: str
    activation: str
    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor

    @property
    def kind(self) -> str:
        """Those of one kind are computed together."""
        return f"{self.variant}_{self.activation}"


class MixedLoRA(nn.Module):
    """A linear layer with several LoRAs (Hu et al. 2021, arXiv:2106.09685, equation 3), row by row.

    Rows are computed by two batched products with gathered weights, `(B, T, in) (B, in, r) (B, r, out)`; where all
    name the same adapter, by two plain ones; where none has LoRA in this layer, as the layer alone does.

    Args:
        base (`nn.Linear`): the layer.
        num_slots (`int`): how many slots there are already; they have no LoRA here.
    """

    def __init__(self, base: nn.Linear, num_slots: int) -> None:
        super().__init__()
        self.base = base
        self.down = WeightStack([base.weight.new_empty(0, base.in_features)] * num_slots)
        self.up = WeightStack([base.weight.new_empty(0, base.out_features)] * num_slots)

    @property
    def weight(self) -> Tensor:
        """The base layer's: some encoders look at its type."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's."""
        return self.base.bias

    def append(self, piece: LowRank | None) -> None:
        """Give it a slot more, `None` for an adapter without LoRA here."""
        self.down.append(self.down.nothing if piece is None else piece.down)
        self.up.append(self.up.nothing if piece is None else piece.up)

    def drop(self, slot: int) -> None:
        """Remove a slot."""
        self.down.drop(slot)
        self.up.drop(slot)

    def forward(self, x: Tensor) -> Tensor:
        """`(B·W, ..., in)` → `(B·W, ..., out)`."""
        output, rows = self.base(x), current_rows()
        if self.down.size(rows) == 0:
            return output
        if len(rows.distinct) == 1:
            down, up = (stack.of_slot(rows.distinct[0]) for stack in (self.down, self.up))
            output.view(-1, up.shape[1]).addmm_(F.linear(x, down).flatten(0, -2), up)
            return output
        split = rows.split(x, "layer with LoRA")
        hidden = torch.bmm(split, self.down.of_rows(rows).transpose(1, 2))
        # Added where it lies: in a new tensor, that takes longer than both products.
        output.view(*split.shape[:2], -1).baddbmm_(hidden, self.up.of_rows(rows))
        return output


class _MixedWhole(nn.Module):
    """A layer of which each slot has a copy of its own; the base's own stands where an adapter has none."""

    def __init__(self, base: nn.Linear | nn.LayerNorm, num_slots: int) -> None:
        super().__init__()
        self.base = base
        self.stacked_weight = WeightStack([base.weight] * num_slots)
        self.stacked_bias = WeightStack([_bias(base)] * num_slots)

    def append(self, piece: Whole | None) -> None:
        """Give it a slot more, `None` for an adapter that has left this layer as it is."""
        if piece is None:
            piece = Whole(self.base.weight, self.base.bias)
        weight = piece.weight
        self.stacked_weight.append(weight)
        self.stacked_bias.append(weight.new_zeros(len(weight)) if piece.bias is None else piece.bias)

    def drop(self, slot: int) -> None:
        """Remove a slot."""
        self.stacked_weight.drop(slot)
        self.stacked_bias.drop(slot)


def _bias(base: nn.Linear | nn.LayerNorm) -> Tensor:
    return base.weight.new_zeros(len(base.weight)) if base.bias is None else base.bias


class MixedLinear(_MixedWhole):
    """A linear layer of a head; rows of adapters with fewer classes than others in the batch are padded with 0."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ..., in)` → `(B, ..., out)`."""
        rows = current_rows()
        if len(rows.distinct) == 1:
            slot = rows.distinct[0]
            return F.linear(x, self.stacked_weight.of_slot(slot), self.stacked_bias.of_slot(slot))
        weight, bias = self.stacked_weight.of_rows(rows), self.stacked_bias.of_rows(rows)
        output = torch.baddbmm(bias[:, None], rows.split(x, "head"), weight.transpose(1, 2))
        return output.reshape(*x.shape[:-1], weight.shape[1])


class MixedLayerNorm(_MixedWhole):
    """A layer normalisation, of a head or anywhere."""

    base: nn.LayerNorm

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ..., D)` → `(B, ..., D)`."""
        rows, shape, eps = current_rows(), list(self.base.normalized_shape), self.base.eps
        if len(rows.distinct) == 1:
            slot = rows.distinct[0]
            return F.layer_norm(x, shape, self.stacked_weight.of_slot(slot), self.stacked_bias.of_slot(slot), eps)
        normalised = F.layer_norm(x, shape, eps=eps)
        weight, bias = self.stacked_weight.of_rows(rows), self.stacked_bias.of_rows(rows)
        output = torch.addcmul(bias[:, None], rows.split(normalised, "layer normalisation"), weight[:, None])
        return output.reshape(x.shape)


class MixedBottleneck(nn.Module):
    """The bottleneck adapters of one variant and activation that stand in one place, row by row.

    Adds 0 in rows of other adapters. A [`BottleneckLayer`] holds it in the place of one adapter.

    Args:
        width (`int`): d.
        activation (`str`): σ of all of them.
        like (`Tensor`): on the device and in the precision of the encoder.
        num_slots (`int`): how many slots there are already; they have no adapter here.
    """

    def __init__(self, width: int, activation: str, like: Tensor, num_slots: int) -> None:
        super().__init__()
        self.activation = ACT2FN[activation]
        empty = like.new_empty(0, width), like.new_empty(0), like.new_empty(0, width), like.new_zeros(width)
        self.down, self.down_bias, self.up, self.up_bias = (WeightStack([part] * num_slots) for part in empty)

    def append(self, piece: Squeezed | None) -> None:
        """Give it a slot more, `None` for an adapter without a bottleneck here."""
        nothing = (
            self.down.nothing,
            self.down_bias.nothing,
            self.up.nothing,
            torch.zeros_like(self.up_bias.of_slot(0)),
        )
        parts = nothing if piece is None else (piece.down, piece.down_bias, piece.up, piece.up_bias)
        for stack, part in zip((self.down, self.down_bias, self.up, self.up_bias), parts, strict=True):
            stack.append(part)

    def drop(self, slot: int) -> None:
        """Remove a slot."""
        for stack in (self.down, self.down_bias, self.up, self.up_bias):
            stack.drop(slot)

    def forward(self, x: Tensor) -> Tensor:
        """`(B·W, ..., d)` → `(B·W, ..., d)`."""
        rows = current_rows()
        if self.down.size(rows) == 0:
            return torch.zeros_like(x)
        if len(rows.distinct) == 1:
            slot = rows.distinct[0]
            hidden = self.activation(F.linear(x, self.down.of_slot(slot), self.down_bias.of_slot(slot)))
            return F.linear(hidden, self.up.of_slot(slot).T, self.up_bias.of_slot(slot))
        split, down = rows.split(x, "bottleneck adapter"), self.down.of_rows(rows).transpose(1, 2)
        hidden = self.activation(torch.baddbmm(self.down_bias.of_rows(rows)[:, None], split, down))
        return torch.baddbmm(self.up_bias.of_rows(rows)[:, None], hidden, self.up.of_rows(rows)).reshape(x.shape)

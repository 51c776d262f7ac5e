"""Stochastic depth for encoders whose layers lack it: branches of the residual stream are left out at random."""

# B rows, L layers

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack

PRE_NORM_LAYER = {"layernorm_before", "attention", "layernorm_after", "mlp", "dropout"}
"""Parts of a layer as ViT, DeiT, I-JEPA, ViT-MSN and AST have it: `dropout` is the last thing that is done to what
either of its two branches, attention and MLP, adds to the residual stream."""


class DropPath:
    """A forward hook on the last module of a branch: leaves it out for some rows, in training only.

    `b ← b · m / (1 - rate)` with m of a row 0 with probability `rate`, else 1 (Huang et al. 2016, arXiv:1603.09382, by
    row and rescaled in training, as Larsson et al. 2016, arXiv:1605.07648, and timm have it). It is drawn from the
    global generator of the device, as dropout is.

    Args:
        rate (`float`): in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        """The branch (B, ...) without that of some rows."""
        if not module.training or self.rate == 0:
            return branch
        kept = torch.rand(len(branch), device=branch.device) >= self.rate
        return branch * (kept.to(branch.dtype) / (1 - self.rate)).view(-1, *(1,) * (branch.ndim - 1))


def add_drop_path(encoder: PreTrainedModel, rate: float) -> None:
    """Give each layer stochastic depth, of a rate that rises linearly from 0 in the first layer to `rate` in the last.

    Args:
        encoder (`PreTrainedModel`): is changed: its layers have forward hooks. Its weights and config stay.
        rate (`float`): in [0, 1).

    Raises:
        InputError: for an encoder whose layers have other branches than ViT's.
    """
    layers = layer_stack(encoder)
    if any(not {name for name, _ in layer.named_children()} >= PRE_NORM_LAYER for layer in layers):
        instead = (
            "use model.encoder_config.layerdrop, which leaves whole layers out"
            if "layerdrop" in vars(encoder.config)
            else "leave model.drop_path out"
        )
        raise InputError(
            f"There is no stochastic depth for a {encoder.config.model_type} encoder (model.drop_path={rate}); "
            f"{instead}."
        )
    rates = torch.linspace(0, rate, len(layers), dtype=torch.float64).tolist()
    for layer, of_layer in zip(layers, rates, strict=True):
        layer.get_submodule("dropout").register_forward_hook(DropPath(of_layer))

"""The places of an adapter's weights in a model, some of whose layers are mixed already."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_ssl.tuners.bottleneck import BottleneckLayer
from hf_ssl.tuners.bottleneck.layer import bottleneck_layer
from hf_ssl.tuners.bottleneck.targets import feed_forward_input
from hf_ssl.tuners.mixed.layers import (
    LowRank,
    MixedBottleneck,
    MixedLayerNorm,
    MixedLinear,
    MixedLoRA,
    Squeezed,
    Whole,
)

Piece = LowRank | Whole | Squeezed
MixedLayer = MixedLoRA | MixedLinear | MixedLayerNorm | MixedBottleneck


def path_of(model: PreTrainedModel, name: str, innermost: bool = True) -> str | None:
    """Where the layer is now that has this name in the plain model; `None` if there is none.

    Args:
        model (`PreTrainedModel`): with bottleneck adapters around some layers.
        name (`str`): in the plain model.
        innermost (`bool`): the layer itself, not what stands around it.
    """
    module: nn.Module = model
    path: list[str] = []
    for part in name.split("."):
        while isinstance(module, BottleneckLayer):
            module = module.base_layer
            path.append("base_layer")
        children = dict(module.named_children())
        if part not in children:
            return None
        module = children[part]
        path.append(part)
    while innermost and isinstance(module, BottleneckLayer):
        module = module.base_layer
        path.append("base_layer")
    return ".".join(path)


def plain_layer(model: PreTrainedModel, name: str) -> nn.Module | None:
    """The layer that has this name in the plain model, as it is without any adapter; `None` if there is none."""
    path = path_of(model, name)
    if path is None:
        return None
    layer = model.get_submodule(path)
    while isinstance(layer, MixedLoRA | MixedLinear | MixedLayerNorm):
        layer = layer.base
    return layer


def install(model: PreTrainedModel, name: str, piece: Piece, num_slots: int) -> MixedLayer:
    """Put the mixed layer for such a piece in its place, with nothing in its slots yet.

    Args:
        model (`PreTrainedModel`): is changed.
        name (`str`): of the layer in the plain model.
        piece ([`Piece`]): of the adapter that is the first to have one of this kind there.
        num_slots (`int`): how many slots there are already.
    """
    path = path_of(model, name, innermost=not isinstance(piece, Squeezed))
    assert path is not None
    if isinstance(piece, Squeezed):
        return _install_bottleneck(model, name, path, piece, num_slots)
    layer: Any = model.get_submodule(path)
    mixed: MixedLayer
    if isinstance(piece, LowRank):
        mixed = MixedLoRA(layer, num_slots)
    else:
        mixed = (MixedLayerNorm if isinstance(layer, nn.LayerNorm) else MixedLinear)(layer, num_slots)
    _put(model, path, mixed)
    return mixed


def uninstall(model: PreTrainedModel, name: str, layer: MixedLayer) -> None:
    """Take away a mixed layer of which no slot has anything left.

    Args:
        model (`PreTrainedModel`): is changed.
        name (`str`): of the layer in the plain model.
        layer ([`MixedLayer`]): what [`install`] gave.
    """
    path = path_of(model, name, innermost=not isinstance(layer, MixedBottleneck))
    assert path is not None
    if not isinstance(layer, MixedBottleneck):
        _put(model, path, layer.base)
        return
    around: Any = model.get_submodule(path)
    kind = next(kind for kind, adapter in around.bottleneck_adapter.items() if adapter is layer)
    del around.bottleneck_adapter[kind], around.bottleneck_variant[kind]
    if "parallel" not in around.bottleneck_variant.values():
        while around.input_hooks:  # nobody would take what they remember
            around.input_hooks.pop().remove()
    around.set_adapter(list(around.bottleneck_adapter), inference_mode=True)


def _put(model: PreTrainedModel, path: str, layer: nn.Module) -> None:
    """Replace a layer; the parallel adapters that read what it is given read what the new one is given."""
    model.set_submodule(path, layer)
    for name, around in model.named_modules():
        if isinstance(around, BottleneckLayer) and around.input_hooks:
            around.input_hooks.pop().remove()
            around.read_input_of(feed_forward_input(model, name))


def _install_bottleneck(
    model: PreTrainedModel, name: str, path: str, piece: Squeezed, num_slots: int
) -> MixedBottleneck:
    around = model.get_submodule(path)
    if not isinstance(around, BottleneckLayer):
        plain, within = plain_layer(model, name), around
        assert plain is not None
        around = bottleneck_layer(plain, name)
        around.base_layer = within
        model.set_submodule(path, around)
    if piece.variant == "parallel":
        around.read_input_of(feed_forward_input(model, name))
    mixed = MixedBottleneck(around.width, piece.activation, next(around.base_layer.parameters()), num_slots)
    around.bottleneck_adapter[piece.kind], around.bottleneck_variant[piece.kind] = mixed, piece.variant
    around.set_adapter(list(around.bottleneck_adapter), inference_mode=True)
    return mixed

"""What an adapter puts where in its model, in the form that can be stacked with others; or why it cannot be."""

import math
from collections.abc import Collection
from dataclasses import fields

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck import BottleneckConfig
from hf_ssl.tuners.bottleneck.layer import bottleneck_layer
from hf_ssl.tuners.bottleneck.targets import feed_forward_input
from hf_ssl.tuners.mixed.layers import LowRank, Squeezed, Whole
from hf_ssl.tuners.mixed.places import Piece, plain_layer
from hf_ssl.tuners.mixed.stored_adapter import StoredAdapter

PLAIN_LORA = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora", "modules_to_save", "init_lora_weights"),
    *("rank_pattern", "alpha_pattern", "runtime_config"),
}
"""Settings of LoRA that leave it a product of two matrices, which are in its file, beside an unchanged layer."""

UNCHANGED_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations of LoRA that leave the layer itself as it was."""

ALONE = "give it a model of its own (`load_finetuned`)"
LORA, BOTTLENECK = "lora_", "bottleneck_adapter."
"""What the parameters of an adapter have in their names after the layer's; those of a head have nothing."""


def pieces_of(adapter: StoredAdapter, model: PreTrainedModel, needed: Collection[str]) -> dict[tuple[str, str], Piece]:
    """An adapter's weights by the layer that they belong to and by their kind.

    Args:
        adapter ([`StoredAdapter`]): what to take apart.
        model (`PreTrainedModel`): its base with a head for one class; it may have mixed layers already.
        needed (`Collection[str]`): parameters that the base lacks, so that the adapter must bring them.

    Raises:
        InputError: for an adapter that cannot be mixed with others, or that does not fit this model.
    """
    _check_kind(adapter)
    for parameter in sorted(needed):
        if parameter not in adapter.weights:
            raise InputError(
                f"The adapter {adapter.name!r} does not hold {parameter}, which its encoder lacks too; train it with "
                "its whole head (modules_to_save), as `hf-ssl finetune` does."
            )
    pieces = {}
    for layer, weights in _by_layer(adapter.weights).items():
        module = plain_layer(model, layer)
        if module is None:
            raise InputError(
                f"The adapter {adapter.name!r} has weights for a layer {layer}, which its encoder {adapter.encoder} "
                "does not have; it belongs to another encoder."
            )
        piece = _piece(adapter, model, layer, module, weights)
        pieces[layer, piece.kind] = piece
    return pieces


def _by_layer(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    by_layer: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        inserted = next((part for part in (LORA, BOTTLENECK) if f".{part}" in key), None)
        layer, _, rest = key.rpartition(".") if inserted is None else key.partition(f".{inserted}")
        by_layer.setdefault(layer, {})[(inserted or "") + rest] = weight
    return by_layer


def _check_kind(adapter: StoredAdapter) -> None:
    config, name = adapter.peft_config, adapter.name
    if isinstance(config, BottleneckConfig):
        if config.fused_adapters is not None:
            raise InputError(f"The adapter {name!r} is an AdapterFusion, which cannot be mixed with others; {ALONE}.")
        return
    if type(config) is not LoraConfig:  # AdaLoRA's config is one by inheritance
        kind = config.peft_type.value
        raise InputError(f"The adapter {name!r} is of the kind {kind}, which cannot be mixed with others; {ALONE}.")
    plain = LoraConfig()
    for field in fields(LoraConfig):
        value = vars(config)[field.name]
        if field.name not in PLAIN_LORA and value != vars(plain)[field.name]:
            raise InputError(
                f"The adapter {name!r} has {field.name}={value!r}, and only plain LoRA can be mixed; {ALONE}."
            )
    if config.init_lora_weights not in UNCHANGED_BASE:
        raise InputError(
            f"The adapter {name!r} has changed its encoder's weights when it began (init_lora_weights="
            f"{config.init_lora_weights!r}); {ALONE}."
        )


def _piece(
    adapter: StoredAdapter, model: PreTrainedModel, layer: str, module: nn.Module, weights: dict[str, Tensor]
) -> Piece:
    """The weights of one layer, checked against the layer itself."""
    if f"{BOTTLENECK}down.weight" in weights:
        return _squeezed(adapter, model, layer, module, weights)
    expected, what = {"lora_A.weight", "lora_B.weight"}, "plain LoRA in linear layers"
    if "lora_A.weight" not in weights:
        expected, what = {"weight", "bias"}, "linear layers and layer normalisations"
    if not isinstance(module, nn.Linear | nn.LayerNorm) or not set(weights) <= expected:
        raise InputError(
            f"The adapter {adapter.name!r} has {', '.join(sorted(weights))} in {layer} ({type(module).__name__}), and "
            f"only {what} can be mixed; {ALONE}."
        )
    if "lora_A.weight" in weights and isinstance(module, nn.Linear):
        return _low_rank(adapter, layer, module, weights)
    return _whole(adapter, layer, module, weights)


def _low_rank(adapter: StoredAdapter, layer: str, base: nn.Linear, weights: dict[str, Tensor]) -> LowRank:
    """A and B of LoRA; the scaling is taken into B."""
    down, up, config = weights["lora_A.weight"], weights["lora_B.weight"], adapter.peft_config
    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, layer), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, layer), config.lora_alpha)
    _check_shape(adapter, f"{layer}.lora_A", down, (rank, base.in_features))
    _check_shape(adapter, f"{layer}.lora_B", up, (base.out_features, rank))
    scaling = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return LowRank(down, (scaling * up.T).contiguous())


def _whole(adapter: StoredAdapter, layer: str, base: nn.Linear | nn.LayerNorm, weights: dict[str, Tensor]) -> Whole:
    whole = Whole(weights.get("weight", base.weight), weights.get("bias", base.bias))
    # The base's head has one class; an adapter's has its own number.
    num_outputs = adapter.config.num_labels if len(base.weight) == 1 else len(base.weight)
    _check_shape(adapter, f"{layer}.weight", whole.weight, (num_outputs, *base.weight.shape[1:]))
    if (whole.bias is None) != (base.bias is None):
        raise InputError(
            f"The adapter {adapter.name!r} and its encoder differ in whether {layer} has a bias; give its own encoder."
        )
    if whole.bias is not None:
        _check_shape(adapter, f"{layer}.bias", whole.bias, (num_outputs,))
    return whole


def _squeezed(
    adapter: StoredAdapter, model: PreTrainedModel, layer: str, module: nn.Module, weights: dict[str, Tensor]
) -> Squeezed:
    """A bottleneck adapter's projections; the scaling is taken into the second."""
    config, width = adapter.peft_config, bottleneck_layer(module, layer).width
    if config.variant == "parallel":
        feed_forward_input(model, layer)  # refuses a layer beside which there is none
    size = config.size(width)
    shapes = {"down.weight": (size, width), "down.bias": (size,), "up.weight": (width, size), "up.bias": (width,)}
    if set(weights) != {BOTTLENECK + name for name in shapes}:
        raise InputError(
            f"The adapter {adapter.name!r} has {', '.join(sorted(weights))} in {layer}, which is no bottleneck "
            "adapter; save it anew."
        )
    for name, shape in shapes.items():
        _check_shape(adapter, f"{layer}.{BOTTLENECK}{name}", weights[BOTTLENECK + name], shape)
    down, down_bias, up, up_bias = (weights[BOTTLENECK + name] for name in shapes)
    scaling = config.scaling
    return Squeezed(
        config.variant, config.activation, down, down_bias, (scaling * up.T).contiguous(), scaling * up_bias
    )


def _check_shape(adapter: StoredAdapter, name: str, weight: Tensor, expected: tuple[int, ...]) -> None:
    if weight.shape != expected:
        raise InputError(
            f"{name} of the adapter {adapter.name!r} has the shape {tuple(weight.shape)}, which should be {expected} "
            f"on the encoder {adapter.encoder}; it belongs to another encoder, or its files to different adapters."
        )

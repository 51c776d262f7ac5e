"""Fewer layers: which ones a smaller encoder takes over, and the encoder that has them alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling.blocks.layer_stack import layer_stack, layer_stack_name
from hf_ssl.modeling.blocks.pretrained import build_encoder

CHOICES = ("every_other", "first")

OF_A_BACKBONE = ("out_features", "out_indices", "stage_names")
"""Fields that transformers derives from the number of layers."""


def chosen_layers(choice: str | Sequence[int], num_kept: int, num_layers: int) -> list[int]:
    """The layers, from 0, that an encoder of fewer layers starts from.

    Args:
        choice (`str` or `Sequence[int]`): `"every_other"`: ⌊i · N / M⌋, with M = N/2 layers 0, 2, 4, … (DistilBERT);
            `"first"`: 0 … M − 1 (DistilHuBERT); or the layers themselves.
        num_kept (`int`): M.
        num_layers (`int`): N.

    Raises:
        InputError: for another choice, more layers than there are, or a list of layers that do not exist, are not in
            order or not M.
    """
    if num_kept > num_layers:
        raise InputError(
            f"The smaller encoder has {num_kept} layers, but the larger one only {num_layers}; give at most as many."
        )
    if choice == "first":
        return list(range(num_kept))
    if choice == "every_other":
        return [layer * num_layers // num_kept for layer in range(num_kept)]
    if isinstance(choice, str):
        raise unknown_name("choice of layers", choice, CHOICES)
    layers = list(choice)
    check_layers(layers, num_layers)
    if len(layers) != num_kept:
        raise InputError(f"{len(layers)} layers are listed ({layers}) for an encoder of {num_kept}; list {num_kept}.")
    return layers


def check_layers(layers: Sequence[int], num_layers: int) -> None:
    """Refuse a list of layers to keep that is none.

    Raises:
        InputError: for an empty list, layers that do not exist or are not in ascending order.
    """
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= num_layers:
        raise InputError(
            f"The layers to keep are {list(layers)}; give some of 0 … {num_layers - 1}, each once, in ascending order."
        )


def num_layers_of(config: PreTrainedConfig) -> int:
    """How many layers an encoder runs one after the other.

    Raises:
        InputError: for an encoder of stages (Swin, ConvNeXt, ResNet), whose layers are not alike.
    """
    if "depths" in config.to_dict():
        raise InputError(
            f"A {config.model_type!r} encoder has stages that differ in size, not a stack of equal layers: no layer "
            "can be left out, nor compared by its number; of the losses take cosine."
        )
    return config.num_hidden_layers


def layers_of_student(config: PreTrainedConfig, changes: Mapping[str, Any], choice: str | Sequence[int]) -> list[int]:
    """The layers of a teacher that its student starts from.

    Args:
        config (`PreTrainedConfig`): the teacher's.
        changes (`Mapping[str, Any]`): the fields in which the student's differs.
        choice (`str` or `Sequence[int]`): see [`chosen_layers`].

    Returns:
        `list[int]`: one for each of the student's layers; empty for encoders of stages.
    """
    if "depths" in config.to_dict():
        return []
    depth = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    changes = {config.attribute_map.get(name, name): value for name, value in changes.items()}
    return chosen_layers(choice, changes.get(depth, config.num_hidden_layers), config.num_hidden_layers)


def smaller_config(config: PreTrainedConfig, changes: Mapping[str, Any], layers: Sequence[int]) -> PreTrainedConfig:
    """An encoder's config with some fields changed.

    Args:
        config (`PreTrainedConfig`): of the larger encoder; it stays as it is.
        changes (`Mapping[str, Any]`): fields under any of the names that transformers has for them.
        layers (`Sequence[int]`): of the larger encoder that are kept: a field that lists a value a layer
            (`layer_types`) keeps theirs.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in OF_A_BACKBONE}
    if fields.get("layer_types"):
        fields["layer_types"] = [fields["layer_types"][layer] for layer in layers]
    changes = {config.attribute_map.get(name, name): value for name, value in changes.items()}
    return type(config).from_dict({**fields, **changes})


def inherit(student: nn.Module, weights: Mapping[str, Tensor], sources: Mapping[str, str]) -> list[str]:
    """Copy the weights that fit.

    Args:
        student (`nn.Module`): changed in place.
        weights (`Mapping[str, Tensor]`): the larger model's.
        sources (`Mapping[str, str]`): by the name of a weight of the student, the larger model's name of it.

    Returns:
        `list[str]`: the student's weights that have no source of their shape, and stay as they are.
    """
    state = student.state_dict()
    fitting = {
        name: weights[sources[name]]
        for name, value in state.items()
        if name in sources and weights[sources[name]].shape == value.shape
    }
    student.load_state_dict(fitting, strict=False)
    return [name for name in state if name not in fitting]


def sources_of_layers(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int]) -> dict[str, str]:
    """Where the weights of an encoder of fewer layers are in the larger one: layer i's in `layers[i]`, others' alike.

    What only the first layer has (WavLM's relative positions, which all layers share) is found in the first layer of
    the larger encoder, whichever layer is kept as the first.
    """
    weights = teacher.state_dict()
    stack = re.escape(layer_stack_name(teacher))
    shared = len(layer_stack(teacher)) != num_layers_of(teacher.config)  # ALBERT's: one layer, run many times

    def source(name: str) -> str:
        found = None if shared else re.match(rf"({stack}\.)(\d+)(\..*)", name)
        moved = f"{found[1]}{layers[int(found[2])]}{found[3]}" if found else name
        return moved if moved in weights else name

    return {name: source(name) for name in student.state_dict() if source(name) in weights}


def keep_layers(encoder: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """An encoder with some of the layers of another: structured pruning without further training.

    Fan, Grave, Joulin 2020, https://arxiv.org/abs/1909.11556, section 4.2 and appendix: an encoder that was trained
    with LayerDrop works at any depth, best with every other layer. One that was not loses more, and is then a start
    for training.

    Args:
        encoder (`PreTrainedModel`): any encoder with a stack of layers; it stays as it is. Of ALBERT, whose layers are
            one, only their number counts.
        layers (`Sequence[int]`): what to keep, from 0, ascending.

    Returns:
        `PreTrainedModel`: of the same class, in evaluation mode; its states are those of running the kept layers of
        `encoder` one after the other.

    Raises:
        InputError: for layers that do not exist, an encoder of stages, or a first layer that is built differently from
            the kept one (ModernBERT's has no norm).
    """
    check_layers(layers, num_layers_of(encoder.config))
    config = smaller_config(encoder.config, {"num_hidden_layers": len(layers)}, layers)
    with_pooler = "pooler" in dict(encoder.named_children())
    pruned = build_encoder(config, with_pooler=with_pooler).to(dtype=encoder.dtype)
    sources = sources_of_layers(pruned, encoder, layers)
    missing = inherit(pruned, encoder.state_dict(), sources)
    stack = layer_stack_name(encoder)
    kept = [name for name in encoder.state_dict() if name.startswith(tuple(f"{stack}.{layer}." for layer in layers))]
    lost = sorted(set(kept) - set(sources.values())) if len(layer_stack(encoder)) > 1 else []
    if missing or lost:
        raise InputError(
            f"The layers {list(layers)} of this {config.model_type!r} encoder cannot stand alone (see "
            f"{[*missing, *lost][0]}): its first layer is built differently; keep layer 0 as the first."
        )
    return pruned.eval()

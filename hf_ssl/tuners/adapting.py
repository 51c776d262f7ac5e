"""The config of an adapter: of a tuner's name and of a few of its fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.tuners.methods import Tuner, tuner_named
from hf_ssl.typed_values import converted

SECTION = "model.tuner_config"
SET_HERE = ("modules_to_save", "task_type", "inference_mode", *(field.name for field in fields(PeftConfig)))
"""Fields that do not describe the method but the adapter of one model."""
RANKS = ("r", "init_r", "target_r")


def check_tuner_config(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a tuner's config, each of its type; as far as it can be told without a model.

    Args:
        name (`str`): of the tuner.
        values (`Mapping[str, Any]`): by the name of the field.

    Raises:
        InputError: for an unknown tuner or field (with the nearest one), and for values that cannot be.
    """
    tuner = tuner_named(name)
    if tuner.config_class is None:
        if values:
            raise InputError(
                f"{SECTION} has {', '.join(values)}, but the tuner {name} takes no settings; leave it out."
            )
        return {}
    settings = converted(tuner.config_class, values, SECTION, without={*SET_HERE, *tuner.fixed})
    for field, value in settings.items():
        if field in RANKS and value < 1:
            raise InputError(f"{SECTION}.{field} is {value}; the rank of an update is at least 1.")
        if "dropout" in field and not 0 <= value < 1:
            raise InputError(f"{SECTION}.{field} is {value}; give a share in [0, 1).")
    _make(tuner, name, settings)
    return settings


def adapter_config(
    model: PreTrainedModel, name: str, values: Mapping[str, Any], modules_to_save: Sequence[str]
) -> PeftConfig:
    """What `get_peft_model` takes to put a tuner's adapter into the encoder of a model.

    Args:
        model (`PreTrainedModel`): a bare encoder, or a model with one under its `base_model_prefix`. Nothing outside
            that encoder (a teacher's copy of it, a head) is adapted.
        name (`str`): of a tuner with a config.
        values (`Mapping[str, Any]`): fields of the config. Names of layers in `target_modules` are looked up in the
            encoder.
        modules_to_save (`Sequence[str]`): modules that are trained whole, as the head.

    Raises:
        InputError: for an unknown tuner, field or layer, a value that cannot be, or an encoder that the tuner is not
            for.
    """
    tuner = tuner_named(name)
    settings = check_tuner_config(name, values)
    if tuner.targets is not None:
        named = settings.pop("target_modules", None)
        settings |= tuner.targets(model, [named] if isinstance(named, str) else named)
        _refuse_layers(model, name, tuner, settings["target_modules"])
    elif isinstance(settings.get("target_modules"), list):
        _check_names(model, settings["target_modules"])
    return _make(tuner, name, {**settings, "modules_to_save": list(modules_to_save)})


def _make(tuner: Tuner, name: str, settings: Mapping[str, Any]) -> PeftConfig:
    assert tuner.config_class is not None
    try:
        return tuner.config_class(**{**tuner.defaults, **tuner.fixed, **settings})
    except InputError as error:
        raise InputError(f"{SECTION} of the tuner {name} cannot be used: {error}") from error
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"{SECTION} of the tuner {name} cannot be used ({reason}); change it.") from error


def _check_names(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Refuses names that are of no module, whole or after a dot, as PEFT compares them."""
    modules = [module for module, _ in model.named_modules()]
    for name in names:
        if not any(f".{module}".endswith(f".{name}") for module in modules):
            known = {module.rpartition(".")[2] for module in modules}
            raise unknown_name(f"module in the {model.base_model.config.model_type} encoder", name, known)


def _refuse_layers(model: PreTrainedModel, name: str, tuner: Tuner, targets: str) -> None:
    """Refuses layers that PEFT would take and then fail on."""
    family, remedy = model.base_model.config.model_type, "choose another tuner, such as lora"
    if family in tuner.refused:
        raise InputError(f"The tuner {name} does not work in a {family} encoder: {tuner.refused[family]}; {remedy}.")
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and not tuner.convolutions and re.fullmatch(targets, layer):
            raise InputError(
                f"The tuner {name} adapts linear layers, and {layer} of the {family} encoder is a convolution; "
                f"{remedy}, or name linear layers in {SECTION}.target_modules."
            )

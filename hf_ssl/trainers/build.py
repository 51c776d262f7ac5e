"""From the `model` section of a run file to a model."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling import Objective
from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel, load_published

FROM_ENCODER = "from_encoder"
"""Key of the model section that is no field of the config: the encoder to start from."""

FROM_PRETRAINING = "from_pretraining"
"""Likewise: the checkpoint of a whole objective (`<out>/pretraining`) to continue, heads and teacher included."""

STARTS = (FROM_ENCODER, FROM_PRETRAINING)


def start_of(values: Mapping[str, Any]) -> str | None:
    """The encoder or checkpoint that a `model` section starts from; `None` from scratch.

    Raises:
        InputError: when it names two starts, or one and another architecture.
    """
    named = [key for key in (*STARTS, "encoder_config") if values.get(key)]
    if len(named) > 1:
        raise InputError(f"model.{named[0]} brings its own config; leave model.{named[1]} out.")
    return next((values[key] for key in STARTS if values.get(key)), None)


def make_model(row: Objective, values: Mapping[str, Any], updates: Mapping[str, Any]) -> SSLPreTrainedModel:
    """The objective with its encoder, fresh or from a published checkpoint.

    Args:
        row ([`Objective`]): which objective.
        values (`Mapping[str, Any]`): the `model` section: fields of the objective's config, `encoder_config` as a dict
            with its `model_type`, and `from_encoder` or `from_pretraining`.
        updates (`Mapping[str, Any]`): what the data decides of the config; it wins over `values`.

    Raises:
        InputError: for an unknown key, encoder or value.
    """
    _check_keys("section model", values, [*own_fields(row.config_class), *STARTS])
    start = start_of(values)
    fields = {key: value for key, value in {**values, **updates}.items() if key not in (*STARTS, "encoder_config")}
    try:
        if values.get(FROM_PRETRAINING):
            return _continued(row, str(start), fields)
        if start is not None:
            return row.model_class.from_encoder(start, **fields)
        encoder_config = fresh_encoder_config(row, values, updates.get("encoder_config") or {})
        return row.model_class(row.config_class(encoder_config=encoder_config, **fields))
    except StrictDataclassError as error:
        raise _unusable(error) from error


def _continued(row: Objective, address: str, fields: Mapping[str, Any]) -> SSLPreTrainedModel:
    """The whole objective as a checkpoint has it; `fields` of its config win over the checkpoint's."""
    config = load_published(AutoConfig, address)
    if not isinstance(config, row.config_class):
        raise InputError(
            f"{address} holds no {row.title} but {config.model_type!r}; give the folder `pretraining` of such a run, "
            "or start from an encoder with model.from_encoder."
        )
    config = row.config_class.from_dict({**config.to_dict(), **fields})
    with no_load_report():
        model, report = row.model_class.from_pretrained(
            address, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    strange = [*report["missing_keys"], *report["unexpected_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if strange:
        raise InputError(
            f"{address} does not hold the weights of this model (see {sorted(strange)[0]}); leave the settings out of "
            "section model that change its size."
        )
    return model.train()


def fresh_encoder_config(row: Objective, values: Mapping[str, Any], updates: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of the encoder that is trained from scratch.

    Args:
        row ([`Objective`]): which objective; its default architecture is taken where the section names none.
        values (`Mapping[str, Any]`): the `model` section.
        updates (`Mapping[str, Any]`): see [`make_encoder_config`].

    Raises:
        InputError: for an architecture, a field or a value that transformers does not have.
    """
    return make_encoder_config({"model_type": row.encoder, **(values.get("encoder_config") or {})}, updates)


def make_encoder_config(values: Mapping[str, Any], updates: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of a transformers encoder.

    Args:
        values (`Mapping[str, Any]`): `model_type` and fields of that architecture's config.
        updates (`Mapping[str, Any]`): fields that the data decides; those that the architecture does not have are left
            out (a ResNet has no `image_size`).

    Raises:
        InputError: for an architecture or a field that transformers does not have.
    """
    values = dict(values)
    model_type = values.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise unknown_name("encoder (model.encoder_config.model_type)", model_type, CONFIG_MAPPING.keys())
    config_class = CONFIG_MAPPING[model_type]
    valid = {*own_fields(config_class), *config_class.attribute_map}
    _check_keys(f"config of {model_type}", values, valid)
    try:
        return config_class(**{**values, **{key: value for key, value in updates.items() if key in valid}})
    except StrictDataclassError as error:
        raise _unusable(error) from error


def _unusable(error: StrictDataclassError) -> InputError:
    return InputError(f"Section model of the run cannot be used: {error.__cause__ or error}")


def own_fields(config_class: type[PreTrainedConfig]) -> list[str]:
    """The fields that a config adds to what every transformers config has."""
    return [name for name in config_class.__dataclass_fields__ if name not in PreTrainedConfig.__dataclass_fields__]


def _check_keys(where: str, values: Iterable[str], valid: Iterable[str]) -> None:
    valid = list(valid)
    for key in values:
        if key not in valid:
            raise unknown_name(f"key in {where}", key, valid)

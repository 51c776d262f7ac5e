"""From the `model` section of a run file to a model."""

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling import Objective
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel

FROM_ENCODER = "from_encoder"
"""Key of the model section that is no field of the config: the encoder to start from."""


def make_model(row: Objective, values: Mapping[str, Any], updates: Mapping[str, Any]) -> SSLPreTrainedModel:
    """The objective with its encoder, fresh or from a published checkpoint.

    Args:
        row ([`Objective`]): which objective.
        values (`Mapping[str, Any]`): the `model` section: fields of the objective's config, `encoder_config` as a dict
            with its `model_type`, and `from_encoder`.
        updates (`Mapping[str, Any]`): what the data decides of the config; it wins over `values`.

    Raises:
        InputError: for an unknown key, encoder or value.
    """
    _check_keys("section model", values, [*own_fields(row.config_class), FROM_ENCODER])
    fields = {
        key: value for key, value in {**values, **updates}.items() if key not in (FROM_ENCODER, "encoder_config")
    }
    try:
        if values.get(FROM_ENCODER):
            if values.get("encoder_config"):
                raise InputError("model.from_encoder brings its own config; leave model.encoder_config out.")
            return row.model_class.from_encoder(values[FROM_ENCODER], **fields)
        encoder_config = fresh_encoder_config(row, values, updates.get("encoder_config") or {})
        return row.model_class(row.config_class(encoder_config=encoder_config, **fields))
    except StrictDataclassError as error:
        raise _unusable(error) from error


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

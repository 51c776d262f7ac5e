"""Values of run files become the types of the fields that they are for."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hf_ssl.errors import InputError, unknown_name


def converted(
    dataclass_type: type, values: Mapping[str, Any], section: str, without: Collection[str] = ()
) -> dict[str, Any]:
    """The values for a dataclass, each of its field's type (`1` for a float becomes `1.0`).

    Args:
        dataclass_type (`type`): whose fields they are for.
        values (`Mapping[str, Any]`): by the name of the field.
        section (`str`): where they stand, for error messages.
        without (`Collection[str]`): fields that cannot be set there.

    Raises:
        InputError: for an unknown name (with the nearest valid one), or a value of the wrong type.
    """
    valid = {field.name for field in fields(dataclass_type) if field.init} - set(without)
    types = get_type_hints(dataclass_type)
    for key in values:
        if key not in valid:
            raise unknown_name(f"key in section {section}", key, valid)
    return {key: _convert(types[key], value, f"{section}.{key}") for key, value in values.items()}


def _convert(type_hint: Any, value: Any, name: str) -> Any:
    adapter = TypeAdapter(type_hint, config=ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True))
    try:
        # To YAML a bare `no` is false; for some settings, such as `eval_strategy`, it is a word.
        if value is False and not _accepts(adapter, False) and _accepts(adapter, "no"):
            value = "no"
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InputError(f"{name} is {value!r}: {error.errors()[0]['msg'].lower()}.") from error


def _accepts(adapter: TypeAdapter, value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True

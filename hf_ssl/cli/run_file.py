"""Run files: one YAML is one run, each of its sections exactly one dataclass."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.typed_values import converted

RECIPES = resources.files("hf_ssl") / "recipes"

T = TypeVar("T")


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(Path(file.name).stem for file in RECIPES.iterdir() if file.name.endswith(".yaml"))


def read_run(name_or_path: str | None, overrides: Sequence[str] = (), sections: Sequence[str] = ()) -> dict[str, Any]:
    """Read a run file and apply the overrides of the command line.

    Args:
        name_or_path (`str`, *optional*): a recipe's name or a YAML file; `None` where the overrides say all.
        overrides (`Sequence[str]`): `section.key=value`, which win over the file.
        sections (`Sequence[str]`): the top-level keys that the file may have.

    Returns:
        `dict[str, Any]`: plain values by section.

    Raises:
        InputError: for an unknown recipe, unreadable YAML, a malformed override or an unknown top-level key.
    """
    try:
        run = OmegaConf.create("{}" if name_or_path is None else _read(name_or_path))
    except (OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"The run file {name_or_path} cannot be read: {error}") from error
    if not OmegaConf.is_dict(run):
        raise InputError(f"The run file {name_or_path} cannot be read: it is not made of sections.")
    values = merged(run, {}, overrides)
    check_sections(values, sections)
    return values


def merged(run: Any, changes: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Changes a run section by section and key by key.

    Args:
        run (`Mapping` or `DictConfig`): its sections.
        changes (`Mapping[str, Any]`): sections with the keys to change.
        overrides (`Sequence[str]`): `section.key=value`, which win over both.

    Returns:
        `dict[str, Any]`: plain values by section.

    Raises:
        InputError: for a malformed override, or one of a place that is not there.
    """
    for override in overrides:
        if "=" not in override:
            raise InputError(f"The override {override!r} is not of the form section.key=value.")
    try:
        changed = OmegaConf.merge(run, changes)
        changed.merge_with_dotlist(list(overrides))
        values = OmegaConf.to_container(changed, resolve=True)
    except (OmegaConfBaseException, YAMLError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The settings {' '.join(overrides) or changes} cannot be used: {reason}.") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_sections(values: Mapping[str, Any], sections: Sequence[str], where: str = "a run file") -> None:
    """Refuse unknown top-level keys, and sections that are values (`iterations`: no list of sections).

    Raises:
        InputError: for the first of them.
    """
    for key, value in values.items():
        if key not in sections:
            raise unknown_name(f"top-level key of {where}", key, sections)
        if key == "iterations":
            if not isinstance(value, list | None) or not all(isinstance(changes, dict) for changes in value or []):
                raise InputError(f"iterations is {value!r}; give a list of what each changes in the other sections.")
            continue
        if key == "objective" and not isinstance(value, str):
            raise InputError(f"objective is {value!r}; give its name.")
        if key != "objective" and not isinstance(value, dict | None):
            raise InputError(f"{key} is {value!r}, but {key} is a section; give one of its keys, {key}.<key>=<value>.")


def _read(name_or_path: str) -> str:
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(f"There is no run file {name_or_path}; give a path to a YAML file or a recipe's name.")
        return path.read_text(encoding="utf-8")
    if name_or_path not in recipe_names():
        raise unknown_name("recipe", name_or_path, recipe_names())
    return (RECIPES / f"{name_or_path}.yaml").read_text(encoding="utf-8")


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["hf-ssl", *sys.argv[1:]])


def build(dataclass_type: type[T], values: Mapping[str, Any] | None, section: str) -> T:
    """Make a section's dataclass of its values, which are converted to the types of the fields (`1` for a float).

    Args:
        dataclass_type (`type`): the section's dataclass.
        values (`Mapping[str, Any]`, *optional*): the section's keys; `None` for an absent section.
        section (`str`): its name, for error messages.

    Raises:
        InputError: for an unknown key (with the nearest valid one), a value of the wrong type, a missing key.
    """
    fields = converted(dataclass_type, values or {}, section)
    try:
        return dataclass_type(**fields)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"Section {section} of the run cannot be used: {error}") from error

"""Options that take lists, on a command line on which settings may stand anywhere."""

from collections.abc import Sequence
from typing import TypeVar

from hf_ssl.errors import InputError

T = TypeVar("T", str, int, float)


def settings_among(words: Sequence[str]) -> list[str]:
    """What follows a list on the command line may be a setting, `section.key=value`."""
    return [word for word in words if "=" in word]


def listed(words: Sequence[str], option: str, kind: type[T]) -> list[T]:
    """The values of an option, which are separated by spaces or commas.

    Args:
        words (`Sequence[str]`): what follows the option; settings among them are left out.
        option (`str`): its name, for the message.
        kind (`type`): of the values.

    Raises:
        InputError: for a value that is no number, where numbers are wanted.
    """
    values = [value for word in words if "=" not in word for value in word.split(",") if value]
    try:
        return [kind(value) for value in values]
    except ValueError as error:
        raise InputError(f"{option} {' '.join(values)} cannot be used ({error}); give numbers.") from error

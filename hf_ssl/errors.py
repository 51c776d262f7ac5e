"""Errors meant for people: what value is wrong, and what to do about it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from safetensors import SafetensorError


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a value, a name.

    The message is one sentence that names the value, says what is wrong and what to do. The command line prints it
    alone (no traceback) and exits with code 2; library code may treat it as the `ValueError` that it is.
    """


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a name that is not in `valid`, with the nearest valid one.

    Args:
        kind (`str`): what was looked for, e.g. `"objective"` or `"key in section training"`.
        name (`str`): the name given.
        valid (`Iterable[str]`): the names that exist.

    Returns:
        [`InputError`]: to be raised by the caller.
    """
    names = sorted(valid)
    nearest = get_close_matches(name, names, n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of: {', '.join(names)}."
    return InputError(f"There is no {kind} {name!r}; {remedy}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says what to do when a file or folder cannot be written.

    Raises:
        InputError: for any failure to write, e.g. because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} could not be written ({error}); free some space and start the same command again (a training "
            "with --resume): it continues with what is complete."
        ) from error

"""Many runs of one comparison: what is finished is kept, what fails does not end the others, nothing is mixed up."""

import gc
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainingArguments

from hf_ssl.errors import InputError, writing
from hf_ssl.trainers.checkpointing import first_difference
from hf_ssl.trainers.recording import describe

logger = logging.getLogger(__name__)

METRICS_FILE, SETTINGS_FILE = "metrics.json", "settings.json"
OF_THE_FOLDER = ("output_dir", "run_name")


class Run(Protocol):
    """A run file, read: a dataclass of its sections."""

    @property
    def training(self) -> TrainingArguments:
        """With the folder of the run."""


def facts_of(run: Run, make: Callable[[], object], failures: dict[str, str], *, of: str) -> dict[str, Any] | None:
    """What a run says of itself in its metrics.json; the run is made unless it is finished.

    Args:
        run ([`Run`]): in a folder of its own.
        make (`Callable`): makes or continues it.
        failures (`dict[str, str]`): gets the reason by the run's folder if it fails.
        of (`str`): what the run is part of, for the log.

    Returns:
        `dict[str, Any]`, *optional*: `None` if it failed.
    """
    folder = Path(run.training.output_dir)
    if not (folder / METRICS_FILE).is_file():
        logger.info("\n== %s ==", folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SETTINGS_FILE).write_text(json.dumps(settings_of(run), indent=1) + "\n", encoding="utf-8")
        if not succeeds(make, str(folder), failures, of=of):
            return None
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))


def succeeds(make: Callable[[], object], name: str, failures: dict[str, str], *, of: str) -> bool:
    """Whether a part of a comparison can be made; if not, the others do not depend on it, and `failures` says why."""
    try:
        make()
    except InputError as error:  # one sentence, which says it all
        logger.warning("%s failed: %s The %s goes on.", name, error, of)
        failures[name] = str(error)
    except Exception as error:  # whatever it is
        logger.exception("%s failed; the %s goes on.", name, of)
        failures[name] = str(error).strip().partition("\n")[0] or type(error).__name__
    finally:
        gc.collect()  # the models of earlier runs
    return name not in failures


def require_same_settings(run: Run, *, of: str, remedy: str) -> None:
    """Refuses to take a run that was made otherwise for one of this comparison.

    Args:
        run ([`Run`]): whose folder may hold another one.
        of (`str`): what the run is part of, for the message.
        remedy (`str`): the setting that chooses another folder, for the message.

    Raises:
        InputError: for the first setting that differs.
    """
    file = Path(run.training.output_dir) / SETTINGS_FILE
    if file.is_file():
        require_same(json.loads(file.read_text(encoding="utf-8")), settings_of(run), file.parent, of=of, remedy=remedy)


def require_same(before: dict[str, Any], now: dict[str, Any], folder: Path, *, of: str, remedy: str) -> None:
    """The same for settings (of [`settings_of`]) that were kept elsewhere."""
    differing = first_difference(before, now)
    if differing is not None:
        key, old, new = differing
        raise InputError(
            f"{folder} is of a run with {key}={old!r}, and this {of} has {new!r}; choose another {remedy}, or the "
            "same settings."
        )


def settings_of(run: Any) -> dict[str, Any]:
    """What makes a run, as JSON has it, without where it is written."""
    sections = {name: describe(section) for name, section in vars(run).items()}
    sections["training"] = {key: value for key, value in sections["training"].items() if key not in OF_THE_FOLDER}
    return json.loads(json.dumps(sections, default=str))

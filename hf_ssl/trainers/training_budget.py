"""How long a training is: so many optimiser steps, or as many as fit into so many minutes."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.trainers.compute_watch import ComputeWatch
from hf_ssl.trainers.kept_runs import require_same, settings_of
from hf_ssl.trainers.run import PreTrainingRun, pretrain
from hf_ssl.trainers.shards import write_whole

logger = logging.getLogger(__name__)

BUDGET_FILE = "budget.json"
WARM_UP_STEPS, MEASURED_STEPS = 3, 10


@dataclass(frozen=True)
class Budget:
    """What each run may cost: one of the two.

    Args:
        steps (`int`, *optional*): optimiser steps.
        minutes (`float`, *optional*): of the training loop, evaluations and checkpoints left out.
    """

    steps: int | None = None
    minutes: float | None = None

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.minutes is None else f"{self.minutes:g} minutes"


def kept_steps(run: PreTrainingRun, folder: Path) -> dict[str, Any] | None:
    """What [`fix_steps`] has written to a folder; `None` if it has not.

    Raises:
        InputError: when that was for other settings.
    """
    file = folder / BUDGET_FILE
    if not file.is_file():
        return None
    facts = json.loads(file.read_text(encoding="utf-8"))
    require_same(facts["settings"], settings_of(run), folder, of="comparison", remedy="--output")
    return facts


def fix_steps(budget: Budget, run: PreTrainingRun, folder: Path, *, command: str) -> dict[str, Any]:
    """The number of steps of a budget, which is found once and then kept in `budget.json`.

    A schedule has to know its length beforehand. Of minutes it is therefore measured over a few steps how long one
    takes here; the training may then take a little more or less than the budget.

    Args:
        budget ([`Budget`]): of each run.
        run ([`PreTrainingRun`]): what is measured.
        folder (`Path`): of all runs with these settings.
        command (`str`): the command line, for what the measured run leaves for a moment.

    Returns:
        `dict[str, Any]`: `max_steps`; of minutes also the measured seconds.

    Raises:
        InputError: as [`kept_steps`] and [`pretrain`] do.
    """
    kept = kept_steps(run, folder)
    if kept is not None:
        return kept
    facts: dict[str, Any] = {"budget": str(budget), "max_steps": budget.steps}
    if budget.minutes is not None:
        measured = _measure(run, folder / "timing", command)
        seconds = measured["seconds_a_step"] + measured["seconds_an_epoch"] / measured["steps_an_epoch"]
        facts |= {"max_steps": max(1, int(60 * budget.minutes / seconds)), **measured, "hardware": describe_hardware()}
        logger.info("%s: %.3g s a step, so %d steps.", run.objective, seconds, facts["max_steps"])
    folder.mkdir(parents=True, exist_ok=True)
    kept = {**facts, "settings": settings_of(run)}
    write_whole(
        folder / BUDGET_FILE, lambda file: file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    )
    return kept


def _measure(run: PreTrainingRun, folder: Path, command: str) -> dict[str, Any]:
    """Seconds a step, and of what happens between two epochs, over the first steps of a run."""
    assert isinstance(run.data, ImageDataArguments)
    shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was broken off
    steps = WARM_UP_STEPS + MEASURED_STEPS
    off: dict[str, Any] = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no"}
    changes = {"output_dir": str(folder), "max_steps": steps, "logging_steps": steps, **off}
    training = replace(run.training, **changes)
    watch = ComputeWatch(run.data.image_size)
    pretrain(replace(run, training=training), command=command, callbacks=[watch])
    shutil.rmtree(folder)
    return {
        "seconds_a_step": fmean(watch.step_seconds[WARM_UP_STEPS:]),
        "seconds_an_epoch": fmean(watch.epoch_seconds),
        "steps_an_epoch": watch.steps_an_epoch,
        "measured_steps": MEASURED_STEPS,
    }

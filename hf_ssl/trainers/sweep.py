"""Tuners compared on one task: each with several seeds, and if wanted with the learning rate that suits it."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_ssl.errors import InputError, writing
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.kept_runs import facts_of, require_same_settings
from hf_ssl.tuners.methods import tuner_named

REPORT_FILE = "sweep.json"
SPLITS = ("validation", "test")
ERROR_RATES = ("wer", "cer", "per")
"""Metrics of which less is better."""


@dataclass(kw_only=True)
class Sweep:
    """What is compared.

    Args:
        run ([`FineTuningRun`]): all that the runs share. Its `model.tuner_config` is that of its own `model.tuner`;
            the other tuners have their defaults.
        tuners (`Sequence[str]`): names of [`hf_ssl.tuners.methods.TUNERS`]; `"none"` is full fine-tuning.
        seeds (`Sequence[int]`): of the head, the adapter and the order of the data.
        learning_rates (`Sequence[float]`): those that each tuner chooses from, by the validation score of the run with
            the first seed; by default the run's own.
    """

    run: FineTuningRun
    tuners: Sequence[str]
    seeds: Sequence[int]
    learning_rates: Sequence[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for tuner in self.tuners:
            tuner_named(tuner)
        for name in ("tuners", "seeds", "learning_rates"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(f"--{name.replace('_', '-')} names one twice: {', '.join(map(str, values))}.")
        if not self.tuners or not self.seeds:
            raise InputError("A sweep needs at least one tuner and one seed; give --tuners and --seeds.")
        if any(rate <= 0 for rate in self.learning_rates):
            raise InputError(f"--learning-rates has {min(self.learning_rates)}; give rates greater than 0.")
        self.learning_rates = self.learning_rates or [self.run.training.learning_rate]

    def run_of(self, tuner: str, learning_rate: float, seed: int) -> FineTuningRun:
        """One run of the sweep, in its own folder in the output folder."""
        folder = Path(self.run.training.output_dir) / tuner / f"lr-{learning_rate:g}" / f"seed-{seed}"
        own = self.run.model
        settings = own.tuner_config if tuner == own.tuner else None
        changes: dict[str, Any] = {"run_name": None, "learning_rate": learning_rate, "seed": seed}
        training = replace(self.run.training, output_dir=str(folder), **changes)
        return FineTuningRun(replace(own, tuner=tuner, tuner_config=settings), self.run.data, training)


@dataclass
class Compared:
    """What a sweep found of one tuner.

    Args:
        tuner (`str`): its name.
        learning_rate (`float`, *optional*): the one that was chosen; `None` where no run was finished.
        num_trained_parameters (`int`): head included.
        num_parameters (`int`): of the whole model.
        size_on_disk (`int`): bytes of what is saved.
        scores (`dict[str, dict[str, list[float]]]`): by split and metric, one value a finished seed.
        tried (`dict[str, float]`): the validation score of the first seed by learning rate, where several were tried.
        failures (`dict[str, str]`): why a run failed, by its folder.
    """

    tuner: str
    learning_rate: float | None = None
    num_trained_parameters: int = 0
    num_parameters: int = 0
    size_on_disk: int = 0
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    tried: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def mean(self, split: str, metric: str) -> float:
        """Over the seeds."""
        return statistics.mean(self.scores[split][metric])

    def spread(self, split: str, metric: str) -> float | None:
        """The standard deviation over the seeds (of a sample, n − 1); `None` for one seed."""
        values = self.scores[split][metric]
        return statistics.stdev(values) if len(values) > 1 else None


def sweep(plan: Sweep, *, command: str) -> list[Compared]:
    """Run what is not there yet, and compare.

    A run that is finished in its folder is kept, one that was broken off continues from its last checkpoint, and one
    that fails is said to have failed, while the others go on. What was found is written to `sweep.json` after each
    tuner.

    Args:
        plan ([`Sweep`]): what to do.
        command (`str`): the command line, for the cards.

    Returns:
        `list[Compared]`: one a tuner, in the order asked for.

    Raises:
        InputError: for data without validation to choose learning rates on, or a folder with runs of other settings.
    """
    if len(plan.learning_rates) > 1 and plan.run.data.validation_split is None:
        raise InputError("Learning rates are chosen on validation; name that split in data.validation_split.")
    for tuner in plan.tuners:
        for rate in plan.learning_rates:
            for seed in plan.seeds:
                require_same_settings(plan.run_of(tuner, rate, seed), of="sweep", remedy="training.output_dir")
    output, compared = Path(plan.run.training.output_dir), []
    for tuner in plan.tuners:
        compared.append(_compare(plan, tuner, command))
        if plan.run.training.process_index == 0:
            with writing(output):
                output.mkdir(parents=True, exist_ok=True)
                rows = [summary(row) for row in compared]
                (output / REPORT_FILE).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return compared


def summary(row: Compared) -> dict[str, Any]:
    """A tuner's row with the mean and the standard deviation of its scores."""
    statistic = {
        split: {
            metric: {"mean": row.mean(split, metric), "standard_deviation": row.spread(split, metric)}
            for metric in metrics
        }
        for split, metrics in row.scores.items()
    }
    return {**asdict(row), "statistics": statistic}


def primary_metric(row: Compared) -> str:
    """The most telling metric of the task."""
    return next(iter(next(iter(row.scores.values()))))


def _compare(plan: Sweep, tuner: str, command: str) -> Compared:
    """Choose the learning rate with the first seed, then run the other seeds with it."""
    row, first, *others = Compared(tuner), *plan.seeds
    tried = {rate: _finished(plan.run_of(tuner, rate, first), row, command) for rate in plan.learning_rates}
    done = {rate: facts for rate, facts in tried.items() if facts is not None}
    if not done:
        return row
    if len(plan.learning_rates) > 1:
        row.tried = {f"{rate:g}": _validation_score(facts) for rate, facts in done.items()}
        sign = -1 if _metrics(next(iter(done.values())), "validation")[0] in ERROR_RATES else 1
        row.learning_rate = max(done, key=lambda rate: sign * _validation_score(done[rate]))
    else:
        row.learning_rate = next(iter(done))
    results = [_finished(plan.run_of(tuner, row.learning_rate, seed), row, command) for seed in others]
    finished = [done[row.learning_rate], *(facts for facts in results if facts is not None)]
    for key in ("num_trained_parameters", "num_parameters", "size_on_disk"):
        setattr(row, key, finished[0][key])
    row.scores = {
        split: {metric: [facts[split][metric] for facts in finished] for metric in _metrics(finished[0], split)}
        for split in SPLITS
        if split in finished[0]
    }
    return row


def _metrics(facts: dict[str, Any], split: str) -> list[str]:
    return [name for name in facts[split] if name != "loss"]


def _validation_score(facts: dict[str, Any]) -> float:
    return facts["validation"][_metrics(facts, "validation")[0]]


def _finished(run: FineTuningRun, row: Compared, command: str) -> dict[str, Any] | None:
    """The facts of a run, which is made unless it is there; `None` if it fails, and `row` says why."""
    make = partial(fine_tune, run, command=command, resume=True)
    return facts_of(run, make, row.failures, of="sweep")

"""What a comparison of objectives found, with its figures over seeds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from hf_ssl.evaluation.bench import Judgement
from hf_ssl.evaluation.result import Row

STEP, SECONDS, PASSES = "step", "training_seconds", "encoder_passes"
ONLINE = "eval_knn_accuracy"


@dataclass(frozen=True)
class Point:
    """A logged value after some training, over seeds.

    Args:
        step (`int`): optimiser steps.
        seconds (`float`): of the training loop, on average.
        passes (`float`): of whole images through an encoder, on average.
        mean (`float`): of the value.
        spread (`float`, *optional*): its standard deviation (n - 1), where there are several seeds.
    """

    step: int
    seconds: float
    passes: float
    mean: float
    spread: float | None


@dataclass(frozen=True)
class TrainedSeed:
    """One finished run.

    Args:
        seed (`int`): of the run.
        folder (`str`): where it is.
        log (`list[dict[str, float]]`): the trainer's.
        warnings (`list[str]`): the signs of collapse in it.
        judgement ([`Judgement`]): of its encoder.
    """

    seed: int
    folder: str
    log: list[dict[str, float]]
    warnings: list[str]
    judgement: Judgement

    def cost(self, name: str) -> float:
        """What the whole training took: `SECONDS` or `PASSES`."""
        return [entry[name] for entry in self.log if name in entry][-1]


@dataclass
class ComparedObjective:
    """One objective with its runs.

    Args:
        name (`str`): in the table of objectives.
        title (`str`): the paper's.
        recipe (`str`): whose settings it has.
        settings (`dict[str, Any]`): of its runs, by section.
        is_suited (`bool`): whether it can hold the encoder; if not, `failures` says why.
        budget (`dict[str, Any]`): `max_steps`, and how a budget of minutes was measured.
        seeds (`list[TrainedSeed]`): the finished runs.
        failures (`dict[str, str]`): why it or a run of it failed, by the run's folder.
    """

    name: str
    title: str
    recipe: str
    settings: dict[str, Any]
    is_suited: bool = True
    budget: dict[str, Any] = field(default_factory=dict)
    seeds: list[TrainedSeed] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def row(self, method: str) -> Row:
        """The measurements of all seeds under a method."""
        runs = [seed.judgement.measurements[method] for seed in self.seeds]
        return Row(self.title, method, runs, [seed.seed for seed in self.seeds])

    def curve(self, name: str) -> list[Point]:
        """A logged value by step, at the steps that all seeds have."""
        logs = [{entry[STEP]: entry for entry in seed.log if name in entry} for seed in self.seeds]
        steps = sorted(set.intersection(*map(set, logs))) if logs else []
        return [_point([log[step] for log in logs], name) for step in steps]

    def mean_collapse(self, name: str) -> float:
        """`effective_rank` or `feature_std` of the frozen features, over seeds."""
        return fmean(seed.judgement.collapse[name] for seed in self.seeds)

    def mean_cost(self, name: str) -> float:
        """`SECONDS` or `PASSES` of a training, over seeds."""
        return fmean(seed.cost(name) for seed in self.seeds)


@dataclass
class ComparisonResult:
    """Everything needed to read the comparison and to make it again.

    Args:
        settings (`dict[str, Any]`): what all objectives share: data, encoder, budget, seeds ...
        objectives (`list[ComparedObjective]`): in the order asked for.
        left_out (`dict[str, str]`): objectives that nobody asked for by name and the encoder does not suit, and why.
        baselines (`list[Row]`): random initialisation of the encoder, and pixels; none without labels.
        untrained ([`Judgement`], *optional*): of a random initialisation; `None` before anything is finished.
        items (`dict[str, Any]`): of the data that encoders are judged on: their numbers, and what stands on the maps.
        hardware (`str`): of this process.
        versions (`dict[str, str]`): of the software.
        command (`str`): that makes it.
    """

    settings: dict[str, Any]
    objectives: list[ComparedObjective]
    left_out: dict[str, str]
    baselines: list[Row]
    untrained: Judgement | None
    items: dict[str, Any]
    hardware: str
    versions: dict[str, str]
    command: str

    @property
    def finished(self) -> list[ComparedObjective]:
        """The objectives with a finished run."""
        return [row for row in self.objectives if row.seeds]

    @property
    def failures(self) -> dict[str, str]:
        """Of all objectives, by what failed."""
        return {name: reason for row in self.objectives for name, reason in row.failures.items()}

    @property
    def methods(self) -> list[str]:
        """The methods that features were probed with; none without labels."""
        return list(dict.fromkeys(row.method for row in self.baselines))

    def rows(self, method: str) -> list[Row]:
        """The finished objectives under a method."""
        return [row.row(method) for row in self.finished]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with means and spreads over seeds."""
        summaries = {
            row.name: {
                "rows": [row.row(method).to_dict()["summary"] | {"method": method} for method in self.methods],
                "online_knn_accuracy": [asdict(point) for point in row.curve(ONLINE)],
            }
            for row in self.finished
        }
        baselines = [row.to_dict() for row in self.baselines]
        return {**asdict(self), "baselines": baselines, "summaries": summaries}


def _point(entries: Sequence[dict[str, float]], name: str) -> Point:
    values = [entry[name] for entry in entries]
    return Point(
        step=int(entries[0][STEP]),
        seconds=fmean(entry[SECONDS] for entry in entries),
        passes=fmean(entry[PASSES] for entry in entries),
        mean=fmean(values),
        spread=stdev(values) if len(values) > 1 else None,
    )

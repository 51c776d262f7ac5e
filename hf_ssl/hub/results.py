"""What was measured of a run, kept under `results` in its metrics.json for its card."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PRETRAINED = "pretrained"
"""The name of the run's own encoder among the `features` of its results; all others are baselines."""

Place = tuple[str, str, str, int | None, str]
"""Data, split, evaluation, labelled items and features of a row of the table."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number of the measured table.

    Args:
        evaluation (`str`): the protocol, e.g. `"offline linear probe of category"`; offline: of the finished, frozen
            encoder.
        features (`str`): what was evaluated: `"pretrained"`, or a baseline such as `"random initialisation"` or
            `"pixels"`.
        task (`str`): the Hub's name of the task that it stands for, e.g. `"image-classification"`.
        metric (`str`): e.g. `"accuracy"`, in [0, 1].
        dataset (`str`): as in the run file.
        split (`str`): the split that was scored.
        values (`tuple[float, ...]`): one a seed.
        seeds (`tuple[int, ...]`): the seeds, of the pretraining, the initial weights or the labelled subset.
        command (`str`): what measures it again.
        interval (`tuple[float, float]`, *optional*): of a single value, the bootstrap 95 % interval over test items.
        num_labelled (`int`, *optional*): training items with labels that it took, where that is known.
    """

    evaluation: str
    features: str
    task: str
    metric: str
    dataset: str
    split: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    command: str
    interval: tuple[float, float] | None = None
    num_labelled: int | None = None

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over the seeds; `None` for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def cell(self) -> str:
        """The mean with what is known of its uncertainty."""
        if self.spread is not None:
            return f"{self.mean:.3f} ± {self.spread:.3f}"
        if self.interval is not None:
            return f"{self.mean:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return f"{self.mean:.3f}"


def read_results(run_dir: Path) -> list[Result]:
    """The results of a run, in the order in which they were measured."""
    path = run_dir / "metrics.json"
    rows = json.loads(path.read_text(encoding="utf-8")).get("results", []) if path.is_file() else []
    return [Result(**{name: as_tuple(value) for name, value in row.items()}) for row in rows]


def as_tuple(value: Any) -> Any:
    """What was a tuple before it was JSON."""
    return tuple(value) if isinstance(value, list) else value


def add_results(run_dir: Path, results: list[Result]) -> None:
    """Add results to a run's metrics.json; one that was measured before, by the same command, is replaced."""
    path = run_dir / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def identity(result: Result) -> tuple[str | int | None, ...]:
        return (*row_of(result), result.metric, result.command)

    kept = {identity(result): result for result in [*read_results(run_dir), *results]}
    metrics["results"] = [asdict(result) for result in kept.values()]
    path.write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def results_table(results: list[Result]) -> str:
    """The results as a Markdown table: a row for all metrics of the same features under the same protocol."""
    metrics = list(dict.fromkeys(result.metric for result in results))
    rows: dict[Place, dict[str, Result]] = {}
    for result in results:
        rows.setdefault(row_of(result), {})[result.metric] = result
    titles = [metric.replace("_", " ").replace("f1", "F1") for metric in metrics]
    lines = [
        f"| data | evaluation | labelled items | features | {' | '.join(titles)} | seeds |",
        f"|---|---|---:|---|{'---:|' * len(metrics)}---|",
    ]
    for row, measured in rows.items():
        cells = [measured[metric].cell if metric in measured else "" for metric in metrics]
        seeds = ", ".join(map(str, next(iter(measured.values())).seeds))
        dataset, split, evaluation, labelled, features = row
        number = "" if labelled is None else f"{labelled:,}"
        lines.append(f"| {dataset}, {split} | {evaluation} | {number} | {features} | {' | '.join(cells)} | {seeds} |")
    return "\n".join(lines)


def row_of(result: Result) -> Place:
    """Where a result stands in the table."""
    return (result.dataset, result.split, result.evaluation, result.num_labelled, result.features)

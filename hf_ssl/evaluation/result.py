"""What an evaluation found, as JSON and as a table."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hf_ssl.evaluation.scores import SCORES

OFFLINE = "offline"
"""What is measured of a finished, frozen encoder, in contrast to online probes, which are measured while it learns."""


@dataclass(frozen=True)
class Measurement:
    """One classifier on one set of features, measured once on the test items.

    Args:
        settings (`str`): of the classifier, as chosen on the validation items.
        layer (`int`, *optional*): of the encoder, as chosen on the validation items.
        validation_accuracy (`float`): by which both were chosen.
        scores (`dict[str, float]`): the [`SCORES`] on the test items.
        intervals (`dict[str, tuple[float, float]]`): their bootstrap 95 % intervals.
    """

    settings: str
    layer: int | None
    validation_accuracy: float
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """One kind of features under one method.

    Args:
        features (`str`): `"encoder"`, `"random initialisation"` or a name of raw features.
        method (`str`): `"linear probe"` or `"kNN"`.
        runs (`list[Measurement]`): one a seed, or one.
        seeds (`list[int]`): of the initial weights and of the subset of the training items, where there are several.
        train_fraction (`float`): share of the training items that the classifier was fitted on.
        num_labelled (`int`, *optional*): how many they are.
    """

    features: str
    method: str
    runs: list[Measurement]
    seeds: list[int] = field(default_factory=list)
    train_fraction: float = 1.0
    num_labelled: int | None = None

    def mean(self, score: str = "accuracy") -> float:
        """A score on the test items, averaged over seeds."""
        return fmean(run.scores[score] for run in self.runs)

    def spread(self, score: str = "accuracy") -> float | None:
        """Its standard deviation over seeds (n − 1), where there are several."""
        return stdev(run.scores[score] for run in self.runs) if len(self.runs) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        summary = {score: {"mean": self.mean(score), "spread": self.spread(score)} for score in SCORES}
        return {**asdict(self), "summary": summary}


@dataclass
class EvaluationResult:
    """Everything needed to read the numbers and to make them again.

    An offline evaluation: the encoder is finished and frozen. What is measured while it is trained is an online probe,
    see [`hf_ssl.trainers.online_evaluation`], on fewer items and by a fixed penalty.

    Args:
        encoder (`str`): name or folder.
        data (`str`): name or path of the data.
        label (`str`): the column that was predicted.
        modality (`str`): of the encoder.
        pooling (`str`): of its hidden states.
        num_items (`dict[str, int]`): items by split.
        num_classes (`int`): of the label.
        rows (`list[Row]`): encoder, random initialisation, raw features.
        versions (`dict[str, str]`): of the software.
        command (`str`, *optional*): that made it.
    """

    encoder: str
    data: str
    label: str
    modality: str
    pooling: str
    num_items: dict[str, int]
    num_classes: int
    rows: list[Row]
    versions: dict[str, str]
    command: str | None = None

    def row(self, features: str, method: str, train_fraction: float = 1.0) -> Row:
        """The row of some features under a method, fitted on a share of the training items."""
        asked = (features, method, train_fraction)
        return next(row for row in self.rows if (row.features, row.method, row.train_fraction) == asked)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {"evaluation": OFFLINE, **vars(self), "rows": [row.to_dict() for row in self.rows]}
        return values

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def to_markdown(self) -> str:
        """A table of the scores on the test items, and how they came about."""
        names = [score.replace("_", " ").replace("f1", "F1") for score in SCORES]
        lines = [
            f"| features | method | labelled items | layer | {' | '.join(names)} |",
            f"|---|---|---|---|{'---:|' * len(names)}",
            *(_line(row) for row in self.rows),
            "",
            self._legend(),
        ]
        if self.command:
            lines += ["", f"Command: `{self.command}`"]
        return "\n".join([*lines, "", "Versions: " + ", ".join(f"{k} {v}" for k, v in self.versions.items())])

    def _legend(self) -> str:
        items = ", ".join(f"{number} {split}" for split, number in self.num_items.items())
        return (
            f"{self.encoder} on {self.data}, label `{self.label}` ({self.num_classes} classes; {items} items), "
            f"{self.pooling} pooling. Offline: the finished encoder is frozen. Labelled items are those that a "
            "classifier is fitted on. Scores are of the test items; layer and penalty were chosen by accuracy on the "
            "validation items. Brackets: bootstrap 95 % interval over test items. ±: standard deviation over seeds, "
            "of the initial weights and of which items are labelled."
        )


def _line(row: Row) -> str:
    seeds = f" (seeds {', '.join(map(str, row.seeds))})" if row.seeds else ""
    settings = ", ".join(dict.fromkeys(run.settings for run in row.runs))
    layers = ", ".join(dict.fromkeys("–" if run.layer is None else str(run.layer) for run in row.runs))
    scores = " | ".join(_cell(row, score) for score in SCORES)
    return f"| {row.features}{seeds} | {OFFLINE} {row.method} ({settings}) | {_labelled(row)} | {layers} | {scores} |"


def _labelled(row: Row) -> str:
    """How many training items the classifier was fitted on."""
    number = "all" if row.num_labelled is None else f"{row.num_labelled:,}"
    return number if row.train_fraction == 1 else f"{number} ({100 * row.train_fraction:.4g} %)"


def _cell(row: Row, score: str) -> str:
    if row.spread(score) is not None:
        return f"{row.mean(score):.3f} ± {row.spread(score):.3f}"
    low, high = row.runs[0].intervals[score]
    return f"{row.mean(score):.3f} [{low:.3f}, {high:.3f}]"

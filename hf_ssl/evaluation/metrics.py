"""Task metrics as `evaluate.Metric`s that come with the package: no hub, no files, plain floats."""

from typing import Any

import datasets
import evaluate
import jiwer
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from hf_ssl.errors import InputError, unknown_name

CLASSES = datasets.Value("int64")
NUMBERS = datasets.Value("float64")
TEXTS = datasets.Value("string")


class InMemoryMetric(evaluate.Metric):
    """A metric of paired predictions and references, kept in memory: no cache files, so no locks.

    A subclass says what it compares (`values`) and computes [`score`]; its name is its class's in snake case.

    Raises:
        InputError: when there is nothing to compare.
    """

    values: datasets.Value
    description: str

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": self.values, "references": self.values})
        return evaluate.MetricInfo(description=self.description, citation="", inputs_description="", features=features)

    def _build_data_dir(self) -> str:
        return ""  # nothing is written, so no folder is made for it

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        if len(references) == 0:
            raise InputError(f"There are no predictions to compute {self.name} of; give at least one.")
        return {self.name: float(self.score(predictions, references))}

    def score(self, predictions: list[Any], references: list[Any]) -> float:
        """The metric's value."""
        raise NotImplementedError


class Accuracy(InMemoryMetric):
    """Share of right classes, in [0, 1]."""

    values, description = CLASSES, "Share of right classes."

    def score(self, predictions: list[int], references: list[int]) -> float:  # noqa: D102
        return sklearn_metrics.accuracy_score(references, predictions)


class BalancedAccuracy(InMemoryMetric):
    """Mean over the classes of the references of the share found, in [0, 1]."""

    values, description = CLASSES, "Recall, averaged over classes."

    def score(self, predictions: list[int], references: list[int]) -> float:  # noqa: D102
        return sklearn_metrics.recall_score(references, predictions, labels=np.unique(references), average="macro")


class MacroF1(InMemoryMetric):
    """F1 averaged over the classes that occur in references or predictions, in [0, 1]."""

    values, description = CLASSES, "F1, averaged over classes."

    def score(self, predictions: list[int], references: list[int]) -> float:  # noqa: D102
        return sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0)


class MicroF1(InMemoryMetric):
    """F1 of the counts added up over classes, in [0, 1]; equals accuracy when each item has one class."""

    values, description = CLASSES, "F1 of the counts of all classes."

    def score(self, predictions: list[int], references: list[int]) -> float:  # noqa: D102
        return sklearn_metrics.f1_score(references, predictions, average="micro")


class MatthewsCorrelation(InMemoryMetric):
    """Correlation of predicted and true classes, in [-1, 1]; 0 when all predictions are one class (CoLA's metric)."""

    values, description = CLASSES, "Matthews correlation coefficient."

    def score(self, predictions: list[int], references: list[int]) -> float:  # noqa: D102
        return sklearn_metrics.matthews_corrcoef(references, predictions)


class WER(InMemoryMetric):
    """Word insertions, deletions and substitutions over the number of words in all references; may exceed 1."""

    values, description = TEXTS, "Word error rate."

    def score(self, predictions: list[str], references: list[str]) -> float:  # noqa: D102
        return jiwer.wer(_spoken(references), list(predictions))


class CER(InMemoryMetric):
    """As the word error rate, of characters, spaces included."""

    values, description = TEXTS, "Character error rate."

    def score(self, predictions: list[str], references: list[str]) -> float:  # noqa: D102
        return jiwer.cer(_spoken(references), list(predictions))


class PER(InMemoryMetric):
    """As the word error rate, of phones, between which there are spaces."""

    values, description = TEXTS, "Phone error rate."

    def score(self, predictions: list[str], references: list[str]) -> float:  # noqa: D102
        return jiwer.wer(_spoken(references), list(predictions))


class Pearson(InMemoryMetric):
    """Linear correlation, in [-1, 1]; 0 when one side is constant."""

    values, description = NUMBERS, "Pearson correlation."

    def score(self, predictions: list[float], references: list[float]) -> float:  # noqa: D102
        return stats.pearsonr(predictions, references).statistic if _vary(predictions, references) else 0.0


class Spearman(InMemoryMetric):
    """Correlation of ranks, in [-1, 1]; 0 when one side is constant."""

    values, description = NUMBERS, "Spearman rank correlation."

    def score(self, predictions: list[float], references: list[float]) -> float:  # noqa: D102
        return stats.spearmanr(predictions, references).statistic if _vary(predictions, references) else 0.0


METRICS: dict[str, type[InMemoryMetric]] = {
    "accuracy": Accuracy,
    "balanced_accuracy": BalancedAccuracy,
    "macro_f1": MacroF1,
    "micro_f1": MicroF1,
    "matthews_correlation": MatthewsCorrelation,
    "wer": WER,
    "cer": CER,
    "per": PER,
    "pearson": Pearson,
    "spearman": Spearman,
}
"""By the name under which `compute` returns the value."""


def load_metric(name: str) -> InMemoryMetric:
    """The metric of a name, as `evaluate.load(name)` but without a hub.

    Args:
        name (`str`): a key of [`METRICS`].

    Returns:
        [`InMemoryMetric`]: `compute(predictions=..., references=...)` gives `{name: float}`.

    Raises:
        InputError: for a name that is not in the table.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]()


def _spoken(references: list[str]) -> list[str]:
    for row, reference in enumerate(references):
        if not reference.strip():
            raise InputError(f"Reference {row} is empty, so its error rate is undefined; leave the recording out.")
    return list(references)


def _vary(*sides: list[float]) -> bool:
    return all(min(side) < max(side) for side in sides)

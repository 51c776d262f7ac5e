"""Which of several kinds of features are better, as far as seeds and test items allow to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean

from scipy.stats import t

from hf_ssl.evaluation.result import Row

CONFIDENCE = 0.95


def half_width(row: Row, score: str) -> float:
    """Half of the 95 % interval of a mean score: over seeds (Student's t) and over test items (bootstrap) together.

    With one run it is of the test items alone.
    """
    ends = [run.intervals[score] for run in row.runs]
    over_items = fmean((high - low) / 2 for low, high in ends)
    spread = row.spread(score)
    if spread is None:
        return over_items
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(row.runs) - 1))
    return hypot(over_items, quantile * spread / sqrt(len(row.runs)))


def differs(first: Row, second: Row, score: str) -> bool:
    """Whether two means differ by more than the 95 % interval of their difference.

    The interval takes the two for independent. That they share the test items makes the true one narrower, so this
    says too seldom that they differ rather than too often.
    """
    margin = hypot(half_width(first, score), half_width(second, score))
    return abs(first.mean(score) - second.mean(score)) > margin


@dataclass(frozen=True)
class Standing:
    """Some rows against one other.

    Args:
        above (`list[Row]`): higher by more than the interval of the difference.
        alike (`list[Row]`): not told apart from it.
        below (`list[Row]`): lower by more than the interval of the difference.
    """

    above: list[Row]
    alike: list[Row]
    below: list[Row]


def against(rows: Sequence[Row], other: Row, score: str) -> Standing:
    """How rows stand against another one, each group in falling order of the mean score."""
    ordered = sorted(rows, key=lambda row: -row.mean(score))
    told_apart = [row for row in ordered if differs(row, other, score)]
    return Standing(
        above=[row for row in told_apart if row.mean(score) > other.mean(score)],
        alike=[row for row in ordered if not differs(row, other, score)],
        below=[row for row in told_apart if row.mean(score) < other.mean(score)],
    )

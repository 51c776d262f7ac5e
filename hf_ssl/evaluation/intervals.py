"""How far an error rate depends on which recordings were tested: bootstrap intervals.

Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation": recordings are drawn
anew with replacement, and the rate of each draw is the sum of its errors over the sum of its units, so that long
recordings count for more, as in the rate itself. It takes recordings for independent: those of one speaker are not.
"""

# N recordings, R resamples

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 1_000


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval.

    Args:
        value (`float`): of the recordings as they are.
        low (`float`): 2.5 % of the resamples are below.
        high (`float`): 2.5 % of the resamples are above.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """The error rate of a system less that of another on the same recordings.

    Args:
        improved (`float`): share of the resamples in which it is negative: Bisani & Ney's probability of improvement.
    """

    improved: float


def error_rate(errors: Sequence[int], units: Sequence[int], seed: int = 0) -> Interval:
    """An error rate with its interval.

    Args:
        errors (`Sequence[int]`): (N,), of each recording.
        units (`Sequence[int]`): (N,), words or characters of its reference, more than 0 in all.
        seed (`int`): of the resampling.
    """
    counts = np.stack([errors, units], axis=1).astype(np.float64)
    sums = _resampled_sums(counts, seed)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return Interval(float(counts[:, 0].sum() / counts[:, 1].sum()), float(low), float(high))


def difference(errors: Sequence[int], others: Sequence[int], units: Sequence[int], seed: int = 0) -> Difference:
    """How much lower (negative) or higher a system's error rate is than another's: both on each draw's recordings.

    Args:
        errors (`Sequence[int]`): (N,), of each recording.
        others (`Sequence[int]`): (N,), the other system's.
        units (`Sequence[int]`): (N,), words or characters of its reference, more than 0 in all.
        seed (`int`): of the resampling.
    """
    counts = np.stack([np.subtract(errors, others), units], axis=1).astype(np.float64)
    sums = _resampled_sums(counts, seed)
    rates = sums[:, 0] / sums[:, 1]
    low, high = np.percentile(rates, (2.5, 97.5))
    value = counts[:, 0].sum() / counts[:, 1].sum()
    return Difference(float(value), float(low), float(high), float((rates < 0).mean()))


def _resampled_sums(counts: np.ndarray, seed: int) -> np.ndarray:
    """Sums over N rows drawn with replacement: (N, C) to (R, C), of the resamples that have any unit."""
    random = np.random.default_rng(seed)
    sums = np.concatenate(
        [
            counts[random.integers(len(counts), size=(RESAMPLES_AT_ONCE, len(counts)))].sum(axis=1)
            for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE)
        ]
    )
    return sums[sums[:, -1] > 0]

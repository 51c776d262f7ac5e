import numpy as np
import pytest

from hf_ssl.evaluation import intervals
from hf_ssl.evaluation.intervals import NUM_RESAMPLES, difference, error_rate

ERRORS = [0, 3, 1, 0, 2, 5, 0, 1]
OTHERS = [1, 3, 2, 1, 2, 6, 1, 1]
UNITS = [4, 9, 3, 1, 7, 12, 2, 5]


def resampled_by_hand(seed: int) -> list[list[int]]:
    """The recordings of each resample, drawn as Bisani & Ney say: as many as there are, with replacement."""
    random = np.random.default_rng(seed)
    return [row for _ in range(NUM_RESAMPLES // 1000) for row in random.integers(8, size=(1000, 8)).tolist()]


def test_an_error_rate_weighs_recordings_by_their_length_in_every_resample():
    rates = [sum(ERRORS[i] for i in rows) / sum(UNITS[i] for i in rows) for rows in resampled_by_hand(3)]
    interval = error_rate(ERRORS, UNITS, seed=3)
    assert interval.value == pytest.approx(sum(ERRORS) / sum(UNITS))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(rates, (2.5, 97.5))))


def test_a_difference_compares_both_systems_on_the_same_recordings():
    differences = [
        sum(ERRORS[i] - OTHERS[i] for i in rows) / sum(UNITS[i] for i in rows) for rows in resampled_by_hand(0)
    ]
    found = difference(ERRORS, OTHERS, UNITS)
    assert found.value == pytest.approx(-5 / 43)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, (2.5, 97.5))))
    assert found.improved == pytest.approx(np.mean(np.array(differences) < 0))
    assert 0.9 < found.improved < 1
    # Two separate intervals overlap widely: pairing is what tells the systems apart.
    assert error_rate(ERRORS, UNITS).high > error_rate(OTHERS, UNITS).low


def test_intervals_cover_what_they_are_of(monkeypatch):
    """Of 200 samples of recordings, the interval holds the true rate in about 95 %."""
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 1000)
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        units = random.integers(1, 20, size=60)
        errors = random.binomial(units, 0.3)
        interval = error_rate(errors.tolist(), units.tolist(), seed=seed)
        covered += interval.low <= 0.3 <= interval.high
    assert 180 <= covered <= 198


def test_recordings_without_units_count_only_their_errors():
    interval = error_rate([2, 0], [0, 4])  # half the resamples with the first twice have no units at all
    assert interval.value == 0.5
    assert interval.low == 0.0
    assert interval.high == pytest.approx(0.5)

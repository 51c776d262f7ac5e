from math import sqrt

import pytest

from hf_ssl.cli.comparison_words import against_baseline, findings
from hf_ssl.evaluation.bench import Judgement
from hf_ssl.evaluation.comparison import ComparedObjective, ComparisonResult, TrainedSeed
from hf_ssl.evaluation.ranking import against, differs, half_width
from hf_ssl.evaluation.result import Measurement, Row
from hf_ssl.evaluation.scores import SCORES

SCORE = "balanced_accuracy"


def measured(value: float, half: float = 0.02) -> Measurement:
    intervals = {name: (value - half, value + half) for name in SCORES}
    return Measurement("C=1", 2, value, dict.fromkeys(SCORES, value), intervals)


def row(name: str, *values: float, half: float = 0.02) -> Row:
    return Row(name, "linear probe", [measured(value, half) for value in values], list(range(len(values))))


def test_an_interval_is_of_seeds_and_of_test_items():
    spread = sqrt((0.01**2 + 0 + 0.01**2) / 2)  # of .49, .50, .51
    over_seeds = 4.302653 * spread / sqrt(3)  # Student's t with 2 degrees of freedom, 97.5 %
    assert half_width(row("a", 0.49, 0.50, 0.51), SCORE) == pytest.approx(sqrt(over_seeds**2 + 0.02**2), rel=1e-5)
    assert half_width(row("a", 0.5), SCORE) == pytest.approx(0.02)


def test_no_difference_is_claimed_within_the_spread():
    base = row("a", 0.49, 0.50, 0.51)
    margin = sqrt(2) * half_width(base, SCORE)
    for sign in (-1, 1):
        for factor, told_apart in ((0.9, False), (1.1, True)):
            other = row("b", *(value + sign * factor * margin for value in (0.49, 0.50, 0.51)))
            assert differs(base, other, SCORE) is differs(other, base, SCORE) is told_apart
    standing = against([row("low", 0.1, 0.1), row("high", 0.9, 0.9), row("near", 0.5, 0.51)], base, SCORE)
    groups = [[one.features for one in group] for group in (standing.above, standing.alike, standing.below)]
    assert groups == [["high"], ["near"], ["low"]]


def result(**values: tuple[float, ...]) -> ComparisonResult:
    objectives = [
        ComparedObjective(
            *(name, name, f"{name}_emoji", {}),
            seeds=[
                TrainedSeed(seed, "", [], [], Judgement({"linear probe": measured(value)}, {}, []))
                for seed, value in enumerate(of_one)
            ],
        )
        for name, of_one in values.items()
    ]
    baselines = [row("random initialisation", 0.3, 0.31, 0.29), row("pixels", 0.7)]
    return ComparisonResult({}, objectives, {}, baselines, None, {}, "", {}, "")


def test_the_findings_follow_from_the_numbers():
    sentences = findings(result(far=(0.4, 0.41, 0.39), best=(0.6, 0.61, 0.62), close=(0.59, 0.6, 0.61)))
    assert sentences[0].startswith("best has the highest balanced accuracy of the linear probe, 0.610 (95 % interval")
    assert sentences[0].endswith("but is not told apart from close 0.600.")
    assert sentences[1] == "Behind it by more than the uncertainty of the difference: far 0.400."
    assert "above best 0.610, close 0.600, far 0.400." in sentences[2]
    assert "above none; below best 0.610, close 0.600, far 0.400." in sentences[3]


def test_a_winner_is_one_beyond_the_uncertainty_and_one_seed_is_said_to_be_one():
    sentences = findings(result(far=(0.4,), best=(0.6,)))
    assert "more than all others by more than the uncertainty of the difference" in sentences[0]
    assert "another seed may change" in sentences[-1]
    (alone, *_) = findings(result(only=(0.5, 0.6)))
    assert "others" not in alone
    assert "told apart" not in alone


def test_against_a_baseline():
    text = against_baseline([row("a", 0.5), row("b", 0.9)], row("pixels", 0.51))
    assert text == ("Against pixels (0.510 (95 % interval 0.490 to 0.530)): above b 0.900; not told apart a 0.500.")

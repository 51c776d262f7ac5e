"""Policies on stored records beside loops, and thresholds for a speed, a loss or a promise."""

import math

import numpy as np
import pytest

from hf_ssl.errors import InputError
from hf_ssl.evaluation.early_exit.calibration import candidates, for_loss, for_speed, with_guarantee
from hf_ssl.evaluation.early_exit.records import ExitRecords

LAYERS = (2, 4, 6)


def records(num_items: int, seed: int = 0) -> ExitRecords:
    """Items of two classes whose exits are right the more often the more certain they are, the later ones more so."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, num_items)
    ease = random.random(num_items)
    certainty, predictions = [], []
    for exit_index in range(3):
        certain = np.clip(ease + 0.15 * exit_index + 0.1 * random.standard_normal(num_items), 0, 1)
        wrong = random.random(num_items) > 0.55 + 0.45 * certain
        certainty.append(certain.astype(np.float32))
        predictions.append(np.where(wrong, 1 - labels, labels))
    said = np.stack(predictions)
    counts = np.zeros((3, num_items), dtype=np.float32)
    for exit_index in (1, 2):
        counts[exit_index] = (counts[exit_index - 1] + 1) * (said[exit_index] == said[exit_index - 1])
    return ExitRecords(
        LAYERS,
        said,
        labels,
        {"entropy": np.stack(certainty), "patience": counts},
        errors=(said != labels).astype(float),
        disagreements=(said != said[-1]).astype(float),
    )


@pytest.mark.parametrize("policy", ["entropy", "patience"])
def test_policies_on_stored_records_are_loops_over_items(policy):
    stored = records(50)
    thresholds = candidates(policy, 3)[:: 1 if policy == "patience" else 20]
    taken = stored.exits_taken(policy, thresholds)
    for place, threshold in enumerate(thresholds):
        for item in range(50):
            exit_index = 0
            while exit_index < 2 and not stored.certainty[policy][exit_index, item] > np.float32(threshold):
                exit_index += 1
            assert taken[place, item] == exit_index
            assert stored.chosen(taken[place])[item] == stored.predictions[exit_index, item]
            full_is_right = stored.predictions[-1, item] == stored.labels[item]
            lost = full_is_right and stored.predictions[exit_index, item] != stored.labels[item]
            assert stored.losses(taken, "loss")[place, item] == lost
            differs = stored.predictions[exit_index, item] != stored.predictions[-1, item]
            assert stored.losses(taken, "disagreement")[place, item] == differs
        layers = sum(LAYERS[exit_index] for exit_index in taken[place]) / 50
        assert stored.mean_layers(taken)[place] == pytest.approx(layers)


def test_candidates_begin_with_full_depth_and_fall():
    stored = records(200)
    for policy in ("entropy", "patience"):
        thresholds = candidates(policy, 3)
        assert (np.diff(thresholds) < 0).all()
        layers = stored.mean_layers(stored.exits_taken(policy, thresholds))
        assert layers[0] == 6
        assert (np.diff(layers) <= 0).all()
    assert candidates("patience", 3).tolist() == [1, 0]
    assert {0.0, 0.5, 1.0} <= set(candidates("entropy", 3))


def test_the_safest_threshold_of_a_speed():
    stored = records(400)
    thresholds = candidates("entropy", 3)
    speeds = 6 / stored.mean_layers(stored.exits_taken("entropy", thresholds))
    for wanted in (1.0, 1.2, 1.5, 2.5):
        choice = for_speed(stored, "entropy", wanted)
        first = next(place for place, speed in enumerate(speeds) if speed >= wanted)
        assert choice.threshold == thresholds[first]
        assert 6 / choice.mean_layers >= wanted
        assert choice.guarantee is None
    assert for_speed(stored, "entropy", 1.0).is_full_depth
    asked = []
    choice = for_speed(stored, "entropy", 1.5, measure=lambda t: asked.append(t) or 3 - 2 * t)
    assert choice.threshold == max(t for t in thresholds if 3 - 2 * t >= 1.5)
    assert len(asked) <= 9
    with pytest.raises(InputError, match=r"speed of 9 is out of reach.*it is 2.9.; ask for less"):
        for_speed(stored, "entropy", 9)
    with pytest.raises(InputError, match="speed of 0.5 is slower than full depth"):
        for_speed(stored, "entropy", 0.5)


def test_the_fastest_threshold_of_a_loss():
    stored = records(400)
    thresholds = candidates("entropy", 3)
    accuracies = [
        np.mean(stored.chosen(taken) == stored.labels) for taken in stored.exits_taken("entropy", thresholds)
    ]
    full = np.mean(stored.predictions[-1] == stored.labels)
    for bound in (0.0, 0.01, 0.05, 0.5):
        within = [t for t, accuracy in zip(thresholds, accuracies, strict=True) if full - accuracy <= bound + 1e-12]
        assert for_loss(stored, "entropy", bound).threshold == min(within)
    with pytest.raises(InputError, match="loss of 1 cannot be aimed at"):
        for_loss(stored, "entropy", 1)


def test_a_promise_is_stricter_than_an_estimate_and_says_what_it_is():
    stored = records(1000)
    choice = with_guarantee(stored, "entropy", 0.05, 0.95)
    assert choice.threshold > for_loss(stored, "entropy", 0.05).threshold
    assert not choice.is_full_depth
    assert choice.risks["loss"] <= 0.05
    assert choice.guarantee["p_value"] <= 0.05
    named = {name: choice.guarantee[name] for name in ("risk", "bound", "confidence", "num_items")}
    assert named == {"risk": "loss", "bound": 0.05, "confidence": 0.95, "num_items": 1000}
    surer = with_guarantee(stored, "entropy", 0.05, 0.999)
    assert surer.threshold >= choice.threshold
    agreeing = with_guarantee(stored, "entropy", 0.05, 0.95, risk="disagreement")
    assert agreeing.threshold > choice.threshold  # gains are disagreements, too


def test_full_depth_where_nothing_can_be_promised():
    """Exits that are always certain and always wrong."""
    labels = np.zeros(100, dtype=int)
    said = np.stack([labels + 1, labels])
    sure = np.ones((2, 100), dtype=np.float32) - np.float32(1e-7)
    stored = ExitRecords((1, 2), said, labels, {"entropy": sure}, (said != 0).astype(float), (said != 0).astype(float))
    choice = with_guarantee(stored, "entropy", 0.1, 0.9)
    assert choice.is_full_depth
    assert choice.mean_layers == 2
    assert choice.risks == {"loss": 0, "disagreement": 0}


def test_too_few_items_and_numbers_out_of_range():
    needed = math.ceil(math.log(0.05) / math.log(0.99))
    with pytest.raises(InputError, match=rf"100 validation items are too few.*give at least {needed}"):
        with_guarantee(records(100), "entropy", 0.01, 0.95)
    with_guarantee(records(needed), "entropy", 0.01, 0.95)
    for bound, confidence in ((0, 0.95), (1, 0.95), (0.01, 1), (0.01, 0)):
        with pytest.raises(InputError, match="cannot be promised with confidence"):
            with_guarantee(records(100), "entropy", bound, confidence)


def test_the_promise_holds_on_held_out_items():
    """Calibrated on many draws, and tested on items of no draw: the risk is above the bound in at most δ of them."""
    bound, level, draws = 0.05, 0.1, 150
    held_out, everything = records(20_000, seed=1), records(60_000, seed=2)
    random = np.random.default_rng(3)
    violations, speeds = 0, []
    for _ in range(draws):
        rows = random.integers(0, everything.num_items, 500)
        drawn = ExitRecords(
            LAYERS,
            everything.predictions[:, rows],
            everything.labels[rows],
            {"entropy": everything.certainty["entropy"][:, rows]},
            everything.errors[:, rows],
            everything.disagreements[:, rows],
        )
        choice = with_guarantee(drawn, "entropy", bound, 1 - level)
        taken = held_out.exits_taken("entropy", np.array([choice.threshold]))
        violations += held_out.losses(taken, "loss").mean() > bound
        speeds.append(6 / choice.mean_layers)
    assert violations / draws <= level + 3 * math.sqrt(level * (1 - level) / draws)
    assert np.mean(speeds) > 1.05

"""The curve of score against speed: its points, the area under it, and time measured side by side."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig

from hf_ssl.evaluation.early_exit.calibration import candidates
from hf_ssl.evaluation.early_exit.curve import ExitCurve, area, spread_thresholds, trace
from hf_ssl.evaluation.early_exit.timing import leaving, relative_times
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import EarlyExitForSequenceClassification
from tests.evaluation.early_exit.test_calibration import records


def test_the_area_is_the_mean_over_budgets():
    assert area([0.5, 1.0], [0.6, 0.8]) == pytest.approx(0.7)
    assert area([1.0, 0.25, 0.5], [0.9, 0.5, 0.9]) == pytest.approx((0.25 * 0.7 + 0.5 * 0.9) / 0.75)
    assert area([1.0, 1.0], [0.4, 0.6]) == pytest.approx(0.5)
    costs, scores = np.linspace(0.2, 1, 9), np.random.default_rng(0).random(9)
    budgets = np.linspace(0.2, 1, 100_001)
    assert area(costs, scores) == pytest.approx(np.interp(budgets, costs, scores).mean(), abs=1e-4)


def test_the_points_of_a_curve():
    stored = records(300)
    thresholds = spread_thresholds(stored, "entropy", 5)
    assert thresholds[0] == 1.0
    assert len(thresholds) == 5
    layers = stored.mean_layers(stored.exits_taken("entropy", thresholds))
    fastest = stored.mean_layers(stored.exits_taken("entropy", candidates("entropy", 3)[-1:]))[0]
    np.testing.assert_allclose(layers, np.linspace(6, fastest, 5), atol=0.2)

    def score(said: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((said == stored.labels).mean())}

    points = trace(stored, "entropy", thresholds, score, {"32": np.array([1.0, 0.9, 0.8, 0.7, 0.6])})
    for threshold, point in zip(thresholds, points, strict=True):
        taken = stored.exits_taken("entropy", np.array([threshold]))[0]
        assert point.depth == pytest.approx(np.array([2, 4, 6])[taken].mean() / 6)
        assert point.left == [np.mean(taken == exit_index) for exit_index in range(3)]
        assert point.scores == score(stored.chosen(taken))
    assert points[0].left == [0, 0, 1]
    curve = ExitCurve("entropy", [2, 4, 6], points, 300, {"split": "test"}).to_dict()
    assert json.loads(json.dumps(curve)) == curve
    accuracies = [point.scores["accuracy"] for point in points]
    assert curve["areas"]["depth"]["accuracy"] == area([point.depth for point in points], accuracies)
    assert curve["areas"]["time at batch 32"]["accuracy"] == area([1.0, 0.9, 0.8, 0.7, 0.6], accuracies)


@pytest.fixture(scope="module")
def model() -> EarlyExitForSequenceClassification:
    torch.manual_seed(0)
    encoder = BertConfig(
        hidden_size=64, num_hidden_layers=12, num_attention_heads=2, intermediate_size=256, vocab_size=40
    )
    return EarlyExitForSequenceClassification(EarlyExitConfig(encoder_config=encoder, num_labels=3)).eval()


def test_a_policy_is_lent_and_taken_back(model):
    with leaving(model, "patience", 2.0):
        assert (model.config.exit_policy, model.config.exit_patience) == ("patience", 3)
        assert model.config.thresholds == [2.0] * 11
    with leaving(model, "entropy", 0.25):
        assert (model.config.exit_policy, model.config.exit_threshold) == ("entropy", 0.25)
    assert (model.config.exit_policy, model.config.exit_threshold, model.config.exit_patience) == ("never", 1.0, 1)


def test_times_are_of_inference_that_stops(model):
    """Where everything leaves at the first of twelve layers, a pass takes a fraction; where nothing does, as long."""
    batches = [{"input_ids": torch.randint(0, 40, (16, 32))} for _ in range(2)]
    times = relative_times(model, batches, "entropy", [1.0, 0.0], rounds=3)
    assert times.shape == (2,)
    assert times[1] < 0.6 < times[0]
    assert model.config.exit_policy == "never"

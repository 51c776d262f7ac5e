import math

import pytest
import torch

from hf_ssl.evaluation.collapse import MAX_ROWS, accuracy, effective_rank, feature_std, prediction_perplexity


def gaussian(num_rows, num_columns):
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(0))


def test_features_of_one_direction_have_no_std_and_rank_one():
    features = torch.rand(64, 1, generator=torch.Generator().manual_seed(0)).add(0.5) * gaussian(1, 16)
    assert feature_std(features).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(features).item() == pytest.approx(1, abs=1e-3)


def test_isotropic_features_are_healthy():
    features = gaussian(4000, 32)
    assert feature_std(features).item() == pytest.approx(1 / math.sqrt(32), rel=0.02)
    assert effective_rank(features).item() == pytest.approx(32, rel=0.01)


def test_effective_rank_of_known_singular_values():
    left, _ = torch.linalg.qr(gaussian(20, 4))
    right, _ = torch.linalg.qr(gaussian(8, 4))
    sizes = torch.tensor([4.0, 2.0, 1.0, 1.0])
    share = sizes / sizes.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share.tolist()))
    assert effective_rank(left * sizes @ right.T).item() == pytest.approx(expected, rel=1e-4)


def test_effective_rank_looks_at_evenly_spaced_rows():
    features = gaussian(2 * MAX_ROWS, 8)
    assert torch.equal(effective_rank(features), effective_rank(features[::2]))


def test_the_effective_rank_of_a_diverged_training_is_nan():
    assert math.isnan(effective_rank(torch.tensor([[1.0, 2.0], [float("nan"), 1.0]])))


def test_features_that_are_all_zero_stay_finite():
    assert feature_std(torch.zeros(4, 3)).item() == 0
    assert math.isfinite(effective_rank(torch.zeros(4, 3)).item())


def test_perplexity_counts_the_classes_in_use():
    one_class = torch.tensor([[100.0, 0.0, 0.0, 0.0]]).expand(8, 4)
    every = torch.zeros(8, dtype=torch.long)
    assert prediction_perplexity(one_class, every).item() == pytest.approx(1)
    assert prediction_perplexity(torch.zeros(8, 4), every).item() == pytest.approx(4)
    assert prediction_perplexity(100 * torch.eye(4), every[:4]).item() == pytest.approx(4)
    assert prediction_perplexity(100 * torch.eye(4)[:2], every[:2]).item() == pytest.approx(2)
    no_predictions = torch.tensor([0, 0, -100, -100])
    assert prediction_perplexity(100 * torch.eye(4), no_predictions).item() == pytest.approx(2)


def test_accuracy_by_hand():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 1])).item() == 0.75
    assert accuracy(logits, torch.tensor([1, 1, -100, -100])).item() == 0.5


def test_scores_that_are_all_equal_predict_nothing():
    assert accuracy(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)).item() == 0


def perplexity(logits):
    return prediction_perplexity(logits, torch.zeros(len(logits), dtype=torch.long))


@pytest.mark.parametrize("function", [feature_std, effective_rank, perplexity])
def test_half_precision_is_computed_in_full(function):
    features = gaussian(32, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = function(features)
    assert value.dtype == torch.float32
    assert torch.equal(value, function(features.float()))

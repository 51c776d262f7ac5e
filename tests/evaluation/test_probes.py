import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from hf_ssl.evaluation.probes import C_GRID, SPARSE_C_GRID, fit_linear_probe, fit_sparse_probe


def problem(num_items, seed, num_dimensions=30):
    """Two classes told apart by the first dimension; the scales of the dimensions differ a lot."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_items, num_dimensions)).astype(np.float32)
    labels = (features[:, 0] + 0.8 * rng.normal(size=num_items) > 0).astype(np.int64)
    return features * np.geomspace(1, 1e3, num_dimensions, dtype=np.float32) + 5, labels


def test_penalty_is_the_best_of_the_grid_on_validation():
    (train, train_labels), (validation, validation_labels) = problem(40, 0), problem(200, 1)
    mean, scale = train.mean(0), train.std(0)
    accuracies = {
        strength: LogisticRegression(C=strength, max_iter=500)
        .fit((train - mean) / scale, train_labels)
        .score((validation - mean) / scale, validation_labels)
        for strength in C_GRID
    }
    probe = fit_linear_probe(train, train_labels, validation, validation_labels)
    assert len(set(accuracies.values())) > 1
    assert probe.validation_accuracy == pytest.approx(max(accuracies.values()))
    assert accuracies[probe.strength] == max(accuracies.values())


def test_validation_decides_the_penalty_and_nothing_else():
    (train, labels), (validation, validation_labels) = problem(40, 0), problem(60, 1)
    one = fit_linear_probe(train, labels, validation, validation_labels, grid=[0.1])
    other = fit_linear_probe(train, labels, validation[::-1] * 9, validation_labels, grid=[0.1])
    assert one.validation_accuracy != other.validation_accuracy
    np.testing.assert_array_equal(one.classifier.coef_, other.classifier.coef_)
    np.testing.assert_array_equal(one.scaler.mean_, other.scaler.mean_)


def test_equally_good_penalties_give_the_first():
    labels = np.arange(40) % 2
    certain = np.where(labels[:, None] == 1, 100.0, -100.0)
    probe = fit_linear_probe(certain, labels, certain, labels)
    assert probe.validation_accuracy == 1
    assert probe.settings == f"C={C_GRID[0]:g}"


def test_scale_of_the_features_does_not_matter():
    (train, labels), (validation, validation_labels) = problem(60, 0), problem(60, 1)
    probe = fit_linear_probe(train, labels, validation, validation_labels)
    scaled = fit_linear_probe(train * 64, labels, validation * 64, validation_labels)
    np.testing.assert_array_equal(probe.predict(validation), scaled.predict(validation * 64))


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_sparse_rows_are_taken_as_they_are():
    (train, labels), (validation, validation_labels) = problem(60, 0), problem(200, 1)
    sparse, sparse_validation = csr_matrix(np.abs(train)), csr_matrix(np.abs(validation))
    probe = fit_sparse_probe(sparse, labels, sparse_validation, validation_labels)
    one = LogisticRegression(C=probe.strength, solver="liblinear", dual=True, random_state=0).fit(sparse, labels)
    assert probe.strength in SPARSE_C_GRID
    assert probe.scaler is None
    np.testing.assert_array_equal(probe.predict(sparse_validation), one.predict(sparse_validation))

import numpy as np
import pytest
from sklearn import metrics

from hf_ssl.evaluation.scores import bootstrap_intervals, classification_scores


def draw(num_items=200, num_classes=5, right=0.6):
    rng = np.random.default_rng(0)
    labels = rng.choice(num_classes, num_items, p=np.arange(1, num_classes + 1) / sum(range(1, num_classes + 1)))
    guesses = rng.integers(0, num_classes + 1, num_items)  # a class that no item has is guessed too
    return np.where(rng.random(num_items) < right, labels, guesses), labels


def test_scores_equal_scikit_learn():
    predictions, labels = draw()
    recalls = metrics.recall_score(labels, predictions, labels=np.unique(labels), average="macro")
    assert classification_scores(predictions, labels) == {
        "accuracy": pytest.approx(metrics.accuracy_score(labels, predictions)),
        "balanced_accuracy": pytest.approx(recalls),
        "macro_f1": pytest.approx(metrics.f1_score(labels, predictions, average="macro")),
    }


def test_intervals_equal_those_of_resampled_items():
    predictions, labels = draw()
    rng = np.random.default_rng(1)
    resampled = {"accuracy": [], "balanced_accuracy": [], "macro_f1": []}
    for _ in range(1000):
        items = rng.integers(0, len(labels), len(labels))
        for name, value in classification_scores(predictions[items], labels[items]).items():
            resampled[name].append(value)
    intervals = bootstrap_intervals(predictions, labels)
    for name, values in resampled.items():
        assert intervals[name] == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=0.015)


def test_intervals_are_reproducible_and_close_around_certainty():
    predictions, labels = draw()
    assert bootstrap_intervals(predictions, labels) == bootstrap_intervals(predictions, labels)
    assert bootstrap_intervals(labels, labels)["accuracy"] == (1.0, 1.0)

"""How well predicted classes agree with the true ones, and how far that depends on which items were tested."""

# N items, K classes, R resamples; a confusion matrix counts items: rows true, columns predicted

import numpy as np

NUM_RESAMPLES = 1000
"""Bootstrap resamples of an interval."""

SCORES = ("accuracy", "balanced_accuracy", "macro_f1")
"""Accuracy; recall averaged over the true classes; F1 averaged over the classes that are true or predicted."""


def classification_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The `SCORES` of predicted classes, each in [0, 1].

    Args:
        predictions (`np.ndarray`): (N,), int from 0.
        labels (`np.ndarray`): (N,), int from 0; N > 0.
    """
    scores = _scores_of(_confusion(predictions, labels))
    return {name: float(values) for name, values in scores.items()}


def bootstrap_intervals(predictions: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each of the `SCORES` when the tested items are drawn anew, with replacement.

    Args:
        predictions (`np.ndarray`): (N,), int from 0.
        labels (`np.ndarray`): (N,), int from 0; N > 0.
        seed (`int`): of the resampling.

    Returns:
        `dict[str, tuple[float, float]]`: lower and upper end.
    """
    confusion = _confusion(predictions, labels)
    # Drawing N items with replacement draws the cells of the matrix from a multinomial: no need to touch the items.
    draws = np.random.default_rng(seed).multinomial(len(labels), confusion.ravel() / len(labels), size=NUM_RESAMPLES)
    scores = _scores_of(draws.reshape(NUM_RESAMPLES, *confusion.shape))
    ends = {name: np.percentile(values, (2.5, 97.5)) for name, values in scores.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _confusion(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    num_classes = int(max(predictions.max(), labels.max())) + 1
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _scores_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Each score of matrices `(..., K, K)`, as `(...)`."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., K)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    return {
        "accuracy": hits.sum(-1) / true.sum(-1),
        "balanced_accuracy": recall.sum(-1) / (true > 0).sum(-1),
        "macro_f1": f1.sum(-1) / (true + predicted > 0).sum(-1),
    }

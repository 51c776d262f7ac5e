"""A linear classifier on frozen features."""

# N items, D dimensions, C inverse strength of the penalty

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

C_GRID = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty on standardised features, as scikit-learn counts them (of a sum of losses)."""

SPARSE_C_GRID = (1.0, 10.0, 100.0)
"""The same for rows of TF-IDF, which have length 1 and stay unstandardised."""

MAX_ITERATIONS = 100

_SMALL = 1e9
"""N · D · classes up to which one thread is about as fast as several, which on busy machines wait for each other."""


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe, its penalty and how well it predicts the validation items."""

    scaler: StandardScaler | None
    classifier: LogisticRegression | OneVsRestClassifier
    strength: float
    validation_accuracy: float

    @property
    def settings(self) -> str:
        """What was chosen, in words."""
        return f"C={self.strength:g}"

    def predict(self, features: np.ndarray | csr_matrix) -> np.ndarray:
        """Classes (N,) of features (N, D)."""
        return self.classifier.predict(features if self.scaler is None else self.scaler.transform(features))


def fit_linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    grid: Sequence[float] = C_GRID,
) -> LinearProbe:
    """Multinomial logistic regression on standardised features; its penalty is chosen on the validation items.

    Args:
        train (`np.ndarray`): (N, D). Mean and scale of each dimension are those of the training items.
        train_labels (`np.ndarray`): (N,), int, at least two classes.
        validation (`np.ndarray`): (N', D).
        validation_labels (`np.ndarray`): (N',), int.
        grid (`Sequence[float]`): values of C; of equally accurate ones the first is taken, so list the strongest
            penalty first.
    """
    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)
    small = train.size * (int(train_labels.max()) + 1) < _SMALL

    threads: AbstractContextManager = threadpool_limits(1, user_api="blas") if small else nullcontext()

    def fit(strength: float) -> LogisticRegression:
        with warnings.catch_warnings():
            # A penalty too weak to converge competes with what it has reached; the validation items judge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(train, train_labels)

    with threads:
        return _choose(partial(LinearProbe, scaler), fit, grid, validation, validation_labels)


def fit_sparse_probe(
    train: csr_matrix, train_labels: np.ndarray, validation: csr_matrix, validation_labels: np.ndarray
) -> LinearProbe:
    """The same for sparse rows, which are not standardised: one logistic regression for each class against the rest.

    With tens of thousands of columns it is as accurate as the multinomial one and (in liblinear) several times faster.
    """

    def fit(strength: float) -> OneVsRestClassifier:
        regression = LogisticRegression(C=strength, solver="liblinear", dual=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return OneVsRestClassifier(regression).fit(train, train_labels)

    return _choose(partial(LinearProbe, None), fit, SPARSE_C_GRID, validation, validation_labels)


def _choose(
    probe: Callable[..., LinearProbe],
    fit: Callable[[float], LogisticRegression | OneVsRestClassifier],
    grid: Sequence[float],
    validation: np.ndarray | csr_matrix,
    validation_labels: np.ndarray,
) -> LinearProbe:
    """The first of the most accurate on the validation items."""
    fitted = [(strength, fit(strength)) for strength in grid]
    scored = [(*pair, float((pair[1].predict(validation) == validation_labels).mean())) for pair in fitted]
    strength, classifier, accuracy = max(scored, key=lambda candidate: candidate[2])
    return probe(classifier, strength, accuracy)

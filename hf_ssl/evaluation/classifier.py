"""What every classifier on frozen features offers, once fitted."""

from typing import Any, Protocol

import numpy as np


class Classifier(Protocol):
    """A fitted classifier."""

    @property
    def validation_accuracy(self) -> float:
        """Share of the validation items that it predicts: what settings and layers are chosen by."""

    @property
    def settings(self) -> str:
        """What was used or chosen, in words."""

    def predict(self, features: Any, /) -> np.ndarray:
        """Classes (N,) of features (N, D)."""


class Method(Protocol):
    """Fits one: to the training items, choosing and measuring by the validation items."""

    def __call__(
        self, train: Any, train_labels: np.ndarray, validation: Any, validation_labels: np.ndarray, /
    ) -> Classifier:
        """The classifier of features (N, D) and their classes (N,)."""

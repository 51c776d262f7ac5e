"""Weighted nearest neighbours on frozen features: an evaluation with nothing to train."""

# N items of the bank, Q queries, D dimensions, K neighbours, C classes

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

NUM_NEIGHBORS = 20
TEMPERATURE = 0.07
_QUERIES_AT_ONCE = 1024  # bounds the (Q, N) similarities held in memory


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    num_neighbors: int = NUM_NEIGHBORS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """The class with the largest sum of `exp(similarity / temperature)` over the nearest items of the bank.

    Wu et al. 2018 (https://arxiv.org/abs/1805.01978, section 3.4), with k = 20 as DINO
    (https://arxiv.org/abs/2104.14294) has it; similarity is the cosine. Runs on the features' device.

    Args:
        bank (`Tensor`): (N, D).
        bank_labels (`Tensor`): (N,), int64 from 0.
        queries (`Tensor`): (Q, D).
        num_neighbors (`int`): K; at most N are used.
        temperature (`float`): positive.

    Returns:
        `Tensor`: (Q,), int64.
    """
    bank = normalize(bank.float(), dim=1)
    num_classes = int(bank_labels.max()) + 1
    predictions = []
    for part in normalize(queries.float(), dim=1).split(_QUERIES_AT_ONCE):
        similarity, neighbors = (part @ bank.T).topk(min(num_neighbors, len(bank)), dim=1)  # (Q, K)
        votes = part.new_zeros(len(part), num_classes)
        votes.scatter_add_(1, bank_labels[neighbors], torch.exp(similarity / temperature))
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


@dataclass(frozen=True)
class KNNClassifier:
    """The bank, and how well it predicts the validation items."""

    bank: np.ndarray
    labels: np.ndarray
    validation_accuracy: float = float("nan")

    @property
    def settings(self) -> str:
        """What was used, in words."""
        return f"k={min(NUM_NEIGHBORS, len(self.bank))}, T={TEMPERATURE}"

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Classes (Q,) of features (Q, D)."""
        bank, labels, queries = map(torch.from_numpy, (self.bank, self.labels, features))
        return knn_predict(bank, labels, queries).numpy()


def fit_knn(
    train: np.ndarray, train_labels: np.ndarray, validation: np.ndarray, validation_labels: np.ndarray
) -> KNNClassifier:
    """A classifier whose bank is the training items; validation only measures it, to choose a layer by.

    Args:
        train (`np.ndarray`): (N, D), fp32.
        train_labels (`np.ndarray`): (N,), int64 from 0.
        validation (`np.ndarray`): (Q, D), fp32.
        validation_labels (`np.ndarray`): (Q,), int64.
    """
    accuracy = float((KNNClassifier(train, train_labels).predict(validation) == validation_labels).mean())
    return KNNClassifier(train, train_labels, accuracy)

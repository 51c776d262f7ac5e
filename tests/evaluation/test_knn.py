import math

import pytest
import torch

from hf_ssl.evaluation import knn
from hf_ssl.evaluation.knn import KNNClassifier, fit_knn, knn_predict


def features(num_items, seed):
    return torch.randn(num_items, 6, generator=torch.Generator().manual_seed(seed))


def naive_knn(bank, bank_labels, query, num_neighbors, temperature):
    similarities = [
        (sum(a * b for a, b in zip(item, query, strict=True)) / (math.hypot(*item) * math.hypot(*query)), label)
        for item, label in zip(bank.tolist(), bank_labels.tolist(), strict=True)
    ]
    votes = {}
    for similarity, label in sorted(similarities, reverse=True)[:num_neighbors]:
        votes[label] = votes.get(label, 0) + math.exp(similarity / temperature)
    return max(votes, key=votes.get)


@pytest.mark.parametrize("num_neighbors", [1, 5, 20])
def test_equals_a_naive_loop(num_neighbors, monkeypatch):
    monkeypatch.setattr(knn, "_QUERIES_AT_ONCE", 7)  # several chunks, the last one incomplete
    bank, labels, queries = features(50, 0), torch.arange(50) % 4, features(30, 1)
    predictions = knn_predict(bank, labels, queries, num_neighbors=num_neighbors, temperature=0.5)
    expected = [naive_knn(bank, labels, query, num_neighbors, 0.5) for query in queries.tolist()]
    assert predictions.tolist() == expected


def test_a_bank_smaller_than_k_votes_whole():
    bank, labels = features(3, 0), torch.tensor([2, 0, 2])
    assert knn_predict(bank, labels, bank).tolist() == [2, 0, 2]
    assert KNNClassifier(bank.numpy(), labels.numpy()).settings == "k=3, T=0.07"


def test_fitted_classifier_measures_validation_only():
    bank, labels = features(40, 0).numpy(), (torch.arange(40) % 2).numpy()
    classifier = fit_knn(bank, labels, bank[:10], 1 - labels[:10])
    assert classifier.validation_accuracy == (classifier.predict(bank[:10]) == 1 - labels[:10]).mean()
    assert classifier.bank is bank

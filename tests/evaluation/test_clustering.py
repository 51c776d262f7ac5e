"""Purity, cluster purity, PNMI and perplexity against tables worked out by hand."""

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from hf_ssl.evaluation.clustering import cluster_purity, contingency, perplexity, pnmi, purity

#       label:       0  1  2
TABLE = torch.tensor([[6, 2, 0], [0, 1, 3]])  # 2 clusters, 12 frames


def test_contingency_counts_pairs():
    clusters = torch.tensor([0, 0, 1, 2, 2, 2])
    labels = torch.tensor([1, 0, 1, 1, 1, 0])
    table = contingency(clusters, labels, num_clusters=4, num_labels=2)
    assert table.tolist() == [[1, 1], [0, 1], [1, 2], [0, 0]]


def test_purity_by_hand():
    assert purity(TABLE) == pytest.approx((6 + 3) / 12)


def test_cluster_purity_by_hand():
    assert cluster_purity(TABLE) == pytest.approx((6 + 2 + 3) / 12)


def test_pnmi_by_hand():
    # H(y) over 6/12, 3/12, 3/12; H(y|z) = 8/12 H(6/8, 2/8) + 4/12 H(1/4, 3/4), and both of these are the same number
    label_entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    remaining = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert pnmi(TABLE) == pytest.approx((label_entropy - remaining) / label_entropy)


def test_perplexity_by_hand():
    assert perplexity(torch.tensor([5, 5, 0])) == pytest.approx(2.0)
    assert perplexity(torch.tensor([7, 0])) == pytest.approx(1.0)
    assert perplexity(torch.tensor([1, 1, 2])) == pytest.approx(math.exp(1.5 * math.log(2)))


def test_clusters_that_are_the_labels():
    table = torch.diag(torch.tensor([3, 4, 5]))
    assert (purity(table), cluster_purity(table), pnmi(table)) == pytest.approx((1.0, 1.0, 1.0))


def test_clusters_that_know_nothing():
    table = torch.tensor([[2, 6], [1, 3]])  # the same shares of labels in both clusters
    assert pnmi(table) == pytest.approx(0.0, abs=1e-12)
    assert purity(table) == pytest.approx(9 / 12)


def test_mutual_information_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(7, (500,), generator=generator)
    labels = (clusters + torch.randint(3, (500,), generator=generator)) % 5
    shares = torch.bincount(labels).double() / 500
    expected = mutual_info_score(labels.numpy(), clusters.numpy()) / -(shares * shares.log()).sum().item()
    assert pnmi(contingency(clusters, labels, 7, 5)) == pytest.approx(expected)


def test_a_single_label_leaves_nothing_to_know():
    assert math.isnan(pnmi(torch.tensor([[3], [4]])))

"""How much the clusters of frames say about reference labels (phones, words, speakers), and how evenly they are used.

HuBERT (Hsu et al. 2021, https://arxiv.org/abs/2106.07447), section V.B: with `p(y, z)` the empirical joint
distribution of label `y` and cluster `z` over frames, phone purity is `E_z[p(y*(z) | z)]` with `y*(z)` the likeliest
label of cluster `z`; cluster purity is `E_y[p(z*(y) | y)]`; PNMI is `I(y; z) / H(y)`.
"""

# V clusters, L labels

import torch
from torch import Tensor


def contingency(clusters: Tensor, labels: Tensor, num_clusters: int, num_labels: int) -> Tensor:
    """Counts how often each cluster meets each label; the tables of parts of the data add up.

    Args:
        clusters (`Tensor`): `(N,)`, integers in `0 .. num_clusters - 1`.
        labels (`Tensor`): `(N,)`, integers in `0 .. num_labels - 1`, on the same device.
        num_clusters (`int`): V.
        num_labels (`int`): L.

    Returns:
        `Tensor`: `(V, L)`, int64.
    """
    pairs = clusters.long() * num_labels + labels.long()
    return torch.bincount(pairs, minlength=num_clusters * num_labels).reshape(num_clusters, num_labels)


def purity(table: Tensor) -> float:
    """Accuracy of frames when every cluster stands for its likeliest label ("phone purity"), in (0, 1].

    It grows with the number of clusters; read it beside [`cluster_purity`], which falls.

    Args:
        table (`Tensor`): `(V, L)` counts, not all zero.
    """
    return (table.amax(dim=1).sum() / table.sum()).item()


def cluster_purity(table: Tensor) -> float:
    """Share of frames that are in the likeliest cluster of their label, in (0, 1].

    Args:
        table (`Tensor`): `(V, L)` counts, not all zero.
    """
    return purity(table.T)


def pnmi(table: Tensor) -> float:
    """Phone-normalised mutual information: the share of the label's entropy, in [0, 1], that the cluster takes away.

    Args:
        table (`Tensor`): `(V, L)` counts, in which at least two labels occur; with one there is nothing to know, and
            the result is nan.
    """
    label_entropy = _entropy(table.sum(dim=0))
    mutual_information = label_entropy + _entropy(table.sum(dim=1)) - _entropy(table.flatten())
    return (mutual_information / label_entropy).item()


def perplexity(counts: Tensor) -> float:
    """Effective number of clusters in use: `exp(entropy)` of how often each occurs, in [1, V].

    Args:
        counts (`Tensor`): `(V,)` counts, not all zero.
    """
    return _entropy(counts).exp().item()


def _entropy(counts: Tensor) -> Tensor:
    """Nats, fp64."""
    probabilities = counts.double() / counts.sum()
    return -torch.special.xlogy(probabilities, probabilities).sum()

"""Lloyd's k-means over vectors that fit on one device."""

# N vectors, K clusters, D dimensions

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import embedding_bag

from hf_ssl.modeling.blocks.codebook import nearest_codewords

SPLIT = 2**-10
"""How far apart, relative to the centroid, the halves of a cluster that is split start, as in faiss."""


def lloyd(
    vectors: Tensor, centroids: Tensor, num_iterations: int, *, spherical: bool = False, split_empty: bool = False
) -> Tensor:
    """Lloyd's iterations: every vector to its nearest centroid, every centroid to the mean of its vectors.

    No loop over clusters; the same input gives the same centroids on every device that has deterministic products.

    Args:
        vectors (`Tensor` of shape `(N, D)`): fp32.
        centroids (`Tensor` of shape `(K, D)`): to start from; stays as it is.
        num_iterations (`int`): at least 0.
        spherical (`bool`): vectors are of length 1, and so are centroids: the nearest has the largest cosine.
        split_empty (`bool`): a centroid that no vector is nearest to takes half of a large cluster, see
            [`split_empty_clusters`]; otherwise it stays where it is.

    Returns:
        `Tensor` of shape `(K, D)`.
    """
    for _ in range(num_iterations):
        sums, counts = cluster_sums(vectors, nearest_codewords(vectors, centroids), len(centroids))
        centroids = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        if split_empty:
            centroids = split_empty_clusters(centroids, counts[:, 0])
        if spherical:
            centroids = F.normalize(centroids, dim=1)
    return centroids


def random_directions(num_clusters: int, size: int) -> Tensor:
    """Unit vectors (K, D), always the same: what stands for centroids until there are some."""
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(num_clusters, size, generator=generator, device="cpu"), dim=1)


def cluster_sums(vectors: Tensor, clusters: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """The sum of the vectors of each cluster, and their number.

    A cluster is a bag of vectors in their order, which gives the same sum each time also on a GPU (atomic additions do
    not).

    Args:
        vectors (`Tensor` of shape `(N, D)`): fp32.
        clusters (`Tensor` of shape `(N,)`): int64, in 0 … K − 1.
        num_clusters (`int`): K.

    Returns:
        sums (`Tensor` of shape `(K, D)`): 0 of an empty cluster.
        counts (`Tensor` of shape `(K, 1)`): int64.
    """
    counts = torch.bincount(clusters, minlength=num_clusters)
    order = clusters.argsort(stable=True)
    return embedding_bag(order, vectors, counts.cumsum(0) - counts, mode="sum"), counts[:, None]


def split_empty_clusters(centroids: Tensor, counts: Tensor) -> Tensor:
    """Each empty cluster gets one half of a large one: the largest are split, each once, if they hold 2 vectors.

    The halves start beside each other, a little up and down in alternating dimensions, as in faiss, which DeepCluster
    clusters with (Caron et al. 2018, "avoiding trivial solutions").

    Args:
        centroids (`Tensor` of shape `(K, D)`): stays as it is.
        counts (`Tensor` of shape `(K,)`): vectors of each.

    Returns:
        `Tensor` of shape `(K, D)`.
    """
    empty = (counts == 0).nonzero()[:, 0]
    largest = counts.argsort(descending=True, stable=True)[: len(empty)]
    largest = largest[counts[largest] >= 2]
    halves = empty[: len(largest)]
    up = 1 + SPLIT * (1 - 2 * (torch.arange(centroids.shape[1], device=centroids.device) % 2))
    centroids = centroids.clone()
    centroids[halves] = centroids[largest] * up
    centroids[largest] = centroids[largest] * (2 - up)
    return centroids

"""K-means over frames that do not fit in memory: seeded on a sample, refined in mini-batches streamed from shards.

Sculley, "Web-scale k-means clustering", 2010 (mini-batches); Arthur and Vassilvitskii, "k-means++", 2007 (seeds).

1. A uniform sample of the frames is drawn in one pass over the shards.
2. Several times, centroids are seeded on the sample (greedy k-means++) and improved by 20 full Lloyd iterations there;
   the try with the least inertia stays.
3. Passes over all shards, in a random order, in mini-batches: a centroid is the running mean of its share of the
   sample and of the frames that came to it *in this pass*. Forgetting at each pass what came before is where this
   differs from Sculley, whose means keep the frames of the first, bad centroids: on 288k MFCC frames of 1138
   recordings (K = 100), 20 passes of his end at an inertia of 1091, 10 of these at 1075, and 50 full Lloyd iterations
   over all frames at 1073. The share of the sample keeps a centroid from following the few recordings that a shard
   holds.
4. It ends when a pass lowers the mean inertia by less than `tolerance`.

A centroid that no frame is nearest to stays where it is (as HuBERT's `reassignment_ratio=0`).
"""

# N frames, S frames of the sample, K clusters, D features

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.codebook import nearest_codewords
from hf_ssl.modeling.blocks.lloyd import cluster_sums, lloyd

_SAMPLE_ITERATIONS = 20


class Shards(Protocol):
    """Parts of the frames, `(N_i, D)`, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Tensor: ...


@dataclass(frozen=True)
class KMeans:
    """What `fit` found.

    Args:
        centroids (`Tensor`): `(K, D)`, fp32, on the CPU.
        inertia (`list[float]`): mean squared distance of a frame to its centroid, measured during each pass.
        num_frames (`int`): how many frames were fitted.
    """

    centroids: Tensor
    inertia: list[float]
    num_frames: int


def fit(
    shards: Shards,
    num_clusters: int,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    sample_size: int = 30_000,
    batch_size: int = 10_000,
    num_tries: int = 5,
    max_passes: int = 50,
    tolerance: float = 1e-3,
) -> KMeans:
    """Fits centroids to frames; the same seed, shards and device give the same centroids.

    Memory: one shard, the sample and a mini-batch, however many shards there are.

    Args:
        shards ([`Shards`]): a list, or an object that reads them. Best each is a random part of the data; shards of a
            few speakers cost some percent of inertia.
        num_clusters (`int`): K.
        seed (`int`): of the sample, the seeds and the order of the frames.
        device (`str` or `torch.device`): where the arithmetic runs, in fp32.
        sample_size (`int`): S, frames for seeding; at least 10 K are taken.
        batch_size (`int`): frames of a mini-batch, as in HuBERT.
        num_tries (`int`): tries of the seeding.
        max_passes (`int`): over all shards.
        tolerance (`float`): relative decrease of the inertia under which it ends.

    Returns:
        [`KMeans`].

    Raises:
        InputError: if there are fewer distinct frames than clusters.
    """
    generator = item_generator(seed, 0, 0)
    sample, num_frames = _uniform_sample(shards, max(sample_size, 10 * num_clusters), generator)
    sample = sample.to(device)
    num_distinct = len(sample.unique(dim=0))
    if num_distinct < num_clusters:
        raise InputError(
            f"{num_clusters} clusters were asked for, but there are {num_distinct} distinct frames among "
            f"{len(sample)}; ask for fewer clusters or give more data."
        )
    centroids = _best_start(sample, num_clusters, num_tries, generator)
    _, sample_counts = cluster_sums(sample, assign(sample, centroids), num_clusters)
    inertia: list[float] = []
    for number in range(max_passes):
        order = torch.randperm(len(shards), generator=generator).tolist()
        progress = tqdm(order, f"k-means, pass {number + 1}", unit="shard", leave=False)
        batches = (batch for i in progress for batch in _mini_batches(shards[i], batch_size, generator))
        inertia.append(_pass(batches, centroids, sample_counts))
        if number and inertia[-2] - inertia[-1] <= tolerance * inertia[-2]:
            break
    return KMeans(centroids.cpu(), inertia, num_frames)


def assign(features: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each frame, see [`nearest_codewords`].

    Args:
        features (`Tensor`): `(N, D)`, on any device.
        centroids (`Tensor`): `(K, D)`.

    Returns:
        `Tensor`: `(N,)`, int64, on the device of the centroids.
    """
    return nearest_codewords(features, centroids)


def squared_distance(features: Tensor, centroids: Tensor, clusters: Tensor) -> float:
    """Sum over frames of the squared distance to the centroid of their cluster, `(N, D)`, `(K, D)`, `(N,)`."""
    return (features - centroids[clusters]).square().sum(dtype=torch.float64).item()


def _uniform_sample(shards: Shards, size: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """`size` of all frames (or all of them), each as likely as any other, and how many frames there are.

    Every frame draws a number and the frames with the least stay, so one pass is enough and only `size` are kept.
    """
    num_frames, kept, draws = 0, torch.empty(0), torch.empty(0)
    for number in tqdm(range(len(shards)), "k-means, sample", unit="shard", leave=False):
        shard = shards[number]
        num_frames += len(shard)
        draws = torch.cat([draws, torch.rand(len(shard), generator=generator, dtype=torch.float64)])
        draws, chosen = draws.topk(min(size, len(draws)), largest=False, sorted=False)
        kept = torch.cat([kept.reshape(-1, shard.shape[1]), shard.float()])[chosen]
    return kept, num_frames


def _best_start(sample: Tensor, num_clusters: int, num_tries: int, generator: torch.Generator) -> Tensor:
    tries = [
        lloyd(sample, _plus_plus(sample, num_clusters, generator), _SAMPLE_ITERATIONS)
        for _ in tqdm(range(num_tries), "k-means, seeding", unit="try", leave=False)
    ]
    return min(tries, key=lambda centroids: squared_distance(sample, centroids, assign(sample, centroids)))


def _plus_plus(sample: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each seed is the best of `2 + ln K` frames drawn with probability ∝ squared distance to the
    seeds.

    Frames are drawn on the CPU, so that the draws depend on the seed alone.
    """
    num_candidates = 2 + int(math.log(num_clusters))
    squared_norms = sample.square().sum(dim=1)

    def squared_distances(frames: Tensor) -> Tensor:
        distances = torch.addmm(squared_norms, frames, sample.T, alpha=-2) + frames.square().sum(dim=1, keepdim=True)
        return distances.clamp_min(torch.finfo(torch.float32).tiny)  # (candidates, S)

    chosen = [torch.randint(len(sample), (1,), generator=generator).to(sample.device)]
    nearest = squared_distances(sample[chosen[0]])[0]
    while len(chosen) < num_clusters:
        candidates = torch.multinomial(nearest.cpu(), num_candidates, replacement=True, generator=generator)
        candidates = candidates.to(sample.device)
        would_be = torch.minimum(nearest, squared_distances(sample[candidates]))
        best = would_be.sum(dim=1).argmin(dim=0, keepdim=True)
        chosen.append(candidates[best])
        nearest = would_be[best[0]]
    return sample[torch.cat(chosen)]


def _mini_batches(shard: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    for rows in torch.randperm(len(shard), generator=generator).split(batch_size):
        yield shard[rows].float()


def _pass(batches: Iterable[Tensor], centroids: Tensor, counts: Tensor) -> float:
    """One pass over the frames: moves `centroids` in place, and returns the mean squared distance met on the way.

    Args:
        batches (`Iterable[Tensor]`): each `(B, D)`.
        centroids (`Tensor`): `(K, D)`.
        counts (`Tensor`): `(K, 1)`, frames that each centroid is the mean of so far.
    """
    distance, num_frames = 0.0, 0
    for batch in batches:
        batch = batch.to(centroids.device)
        clusters = assign(batch, centroids)
        distance += squared_distance(batch, centroids, clusters)
        num_frames += len(batch)
        sums, new_counts = cluster_sums(batch, clusters, len(centroids))
        counts = counts + new_counts
        centroids += (sums - new_counts * centroids) / counts.clamp_min(1)
    return distance / num_frames

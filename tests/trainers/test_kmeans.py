"""Streaming k-means: against a naive loop, against scikit-learn, and on what goes wrong in practice."""

import weakref

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from hf_ssl.errors import InputError
from hf_ssl.trainers.kmeans import assign, fit, squared_distance


def blobs(
    num_blobs: int, num_frames: int, size: int, spread: float, in_order: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames around random centres, and the centres; `in_order` of the centres, a shard has the frames of a few."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(num_blobs, size, generator=generator) * 10
    labels = torch.randint(num_blobs, (num_frames,), generator=generator)
    labels = labels.sort().values if in_order else labels
    return centres[labels] + spread * torch.randn(num_frames, size, generator=generator), centres


def mean_inertia(frames: torch.Tensor, centroids: torch.Tensor) -> float:
    return squared_distance(frames, centroids, assign(frames, centroids)) / len(frames)


def test_assign_is_the_loop_over_clusters():
    frames, centroids = blobs(7, 501, 5, spread=5.0)
    expected = [min(range(7), key=lambda k: ((x - centroids[k]) ** 2).sum().item()) for x in frames]
    assert assign(frames, centroids).tolist() == expected


def test_assign_in_chunks(monkeypatch):
    frames, centroids = blobs(7, 501, 5, spread=5.0)
    whole = assign(frames, centroids)
    monkeypatch.setattr("hf_ssl.modeling.blocks.codebook.DISTANCES_AT_ONCE", 70)
    assert assign(frames, centroids).equal(whole)


def test_separate_blobs_are_found():
    frames, centres = blobs(12, 6_000, 8, spread=0.1)
    found = fit(frames.split(700), 12, seed=0)
    assert found.num_frames == 6_000
    distances = torch.cdist(centres, found.centroids)
    assert distances.argmin(dim=1).unique().numel() == 12
    assert distances.amin(dim=1).max() < 0.05


def scikit_learn_inertia(frames: torch.Tensor, num_clusters: int) -> float:
    """With HuBERT's settings."""
    settings = {"n_init": 20, "tol": 0.0, "max_no_improvement": 100, "reassignment_ratio": 0.0, "random_state": 0}
    theirs = MiniBatchKMeans(num_clusters, batch_size=2_000, **settings).fit(frames.numpy())
    return mean_inertia(frames, torch.from_numpy(theirs.cluster_centers_))


@pytest.mark.parametrize("num_clusters", [20, 100])
def test_as_good_as_scikit_learn(num_clusters):
    frames, _ = blobs(60, 40_000, 13, spread=8.0)  # overlapping: there are no right clusters, only better ones
    ours = fit(frames.split(5_000), num_clusters, seed=0, sample_size=10_000, batch_size=2_000)
    assert mean_inertia(frames, ours.centroids) < 1.005 * scikit_learn_inertia(frames, num_clusters)


def test_shards_in_the_order_of_their_frames_cost_little():
    frames, _ = blobs(60, 40_000, 13, spread=8.0, in_order=True)
    ours = fit(frames.split(2_000), 50, seed=0, sample_size=4_000, batch_size=1_000)
    assert mean_inertia(frames, ours.centroids) < 1.04 * scikit_learn_inertia(frames, 50)


def test_inertia_falls_from_pass_to_pass():
    frames, _ = blobs(60, 20_000, 13, spread=8.0)
    found = fit(frames.split(2_000), 50, seed=0, sample_size=2_000, batch_size=1_000, tolerance=1e-3)
    assert len(found.inertia) > 2
    assert all(later < earlier for earlier, later in zip(found.inertia, found.inertia[1:-1], strict=False))
    assert mean_inertia(frames, found.centroids) < found.inertia[0]


def test_a_batch_of_everything_is_lloyds_iteration_damped_by_the_sample():
    frames, _ = blobs(6, 3_000, 4, spread=6.0)
    start = fit([frames], 6, seed=3, max_passes=0).centroids
    after = fit([frames], 6, seed=3, max_passes=1, batch_size=3_000).centroids
    clusters = assign(frames, start)
    for k in range(6):
        members = frames[clusters == k]  # here the sample is everything, so the old centroid weighs as much
        torch.testing.assert_close(after[k], (start[k] + members.mean(dim=0)) / 2, atol=1e-3, rtol=1e-4)


def test_the_same_seed_gives_the_same_centroids():
    frames, _ = blobs(30, 10_000, 13, spread=8.0)
    first, second = (fit(frames.split(999), 25, seed=5, batch_size=500).centroids for _ in range(2))
    assert first.equal(second)
    assert not first.equal(fit(frames.split(999), 25, seed=6, batch_size=500).centroids)


def test_the_global_generator_is_left_alone():
    frames, _ = blobs(5, 500, 4, spread=1.0)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    fit([frames], 5, seed=1)
    assert torch.rand(1).equal(expected)


class LazyShards:
    """Makes each shard when it is asked for, and counts how many are alive."""

    def __init__(self, num_shards: int) -> None:
        self.num_shards, self.alive, self.most = num_shards, weakref.WeakSet(), 0

    def __len__(self) -> int:
        return self.num_shards

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= self.num_shards:
            raise IndexError(index)
        shard = torch.randn(300, 4, generator=torch.Generator().manual_seed(index))
        self.alive.add(shard)
        self.most = max(self.most, len(self.alive))
        return shard


def test_one_shard_at_a_time_is_in_memory():
    few, many = LazyShards(4), LazyShards(24)
    for shards in (few, many):
        fit(shards, 5, seed=0, sample_size=100, batch_size=128, max_passes=2)
    assert few.most == many.most <= 2


def test_every_frame_is_as_likely_in_the_sample():
    # After no pass the sample alone decides where the centroids are: all 40 shards of equal frames must be found.
    shards = [torch.full((50, 2), float(i)) for i in range(40)]
    centroids = fit(shards, 40, seed=0, sample_size=400, max_passes=0).centroids
    assert sorted(centroids[:, 0].tolist()) == pytest.approx(list(range(40)))


def test_a_centroid_without_frames_stays():
    frames = torch.cat([torch.zeros(200, 2), torch.ones(200, 2), torch.tensor([[9.0, 9.0]])])
    found = fit([frames], 3, seed=0)
    assert sorted(found.centroids[:, 0].round().tolist()) == [0.0, 1.0, 9.0]
    nearest = assign(torch.ones(5, 2), found.centroids)
    assert nearest.unique().numel() == 1


def test_half_precision_shards_are_summed_in_single():
    frames, centres = blobs(4, 4_000, 3, spread=0.1)
    centroids = fit([frames.half()], 4, seed=0).centroids
    assert centroids.dtype == torch.float32
    assert torch.cdist(centres, centroids).amin(dim=1).max() < 0.05


def test_fewer_distinct_frames_than_clusters():
    frames = torch.from_numpy(np.repeat(np.eye(3, dtype=np.float32), 100, axis=0))
    with pytest.raises(InputError, match="4 clusters were asked for, but there are 3 distinct frames among 300"):
        fit([frames], 4, seed=0)

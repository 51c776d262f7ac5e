import pytest
import torch
import torch.nn.functional as F

from hf_ssl.modeling.blocks.codebook import nearest_codewords
from hf_ssl.modeling.blocks.lloyd import SPLIT, cluster_sums, lloyd, split_empty_clusters


def points(num_points, size, seed=0):
    return torch.randn(num_points, size, generator=torch.Generator().manual_seed(seed))


def by_hand(vectors, centroids, num_iterations, spherical):
    centroids = [c.clone() for c in centroids]
    for _ in range(num_iterations):
        clusters = [[] for _ in centroids]
        for x in vectors:
            clusters[min(range(len(centroids)), key=lambda k: ((x - centroids[k]) ** 2).sum().item())].append(x)
        for k, members in enumerate(clusters):
            if members:
                mean = torch.stack(members).mean(0)
                centroids[k] = mean / mean.norm() if spherical else mean
    return torch.stack(centroids)


@pytest.mark.parametrize("spherical", [False, True])
def test_it_is_the_loop_over_clusters(spherical):
    vectors = points(60, 4)
    vectors = F.normalize(vectors, dim=1) if spherical else vectors
    expected = by_hand(vectors, vectors[:7], 5, spherical)
    torch.testing.assert_close(lloyd(vectors, vectors[:7], 5, spherical=spherical), expected)


def test_sums_and_counts():
    vectors, clusters = points(6, 3), torch.tensor([2, 0, 2, 4, 0, 2])
    sums, counts = cluster_sums(vectors, clusters, 5)
    assert counts.flatten().tolist() == [2, 0, 3, 0, 1]
    for k in range(5):
        torch.testing.assert_close(sums[k], vectors[clusters == k].sum(0))


def test_an_empty_cluster_stays_where_it_is_unless_it_is_to_be_filled():
    vectors = points(50, 2)
    start = torch.cat([vectors[:3], torch.full((1, 2), 1e3)])
    assert torch.equal(lloyd(vectors, start, 10)[3], start[3])
    filled = lloyd(vectors, start, 10, split_empty=True)
    assert nearest_codewords(vectors, filled).unique().tolist() == [0, 1, 2, 3]


def test_the_largest_clusters_are_split():
    centroids, counts = torch.ones(5, 4), torch.tensor([3, 0, 9, 1, 0])
    split = split_empty_clusters(centroids, counts)
    up, down = torch.tensor([1 + SPLIT, 1 - SPLIT] * 2), torch.tensor([1 - SPLIT, 1 + SPLIT] * 2)
    for k, expected in enumerate((down, up, down, torch.ones(4), up)):
        torch.testing.assert_close(split[k], expected)
    assert torch.equal(centroids, torch.ones(5, 4))


def test_what_cannot_be_split_is_not():
    """Four empty clusters, but one alone holds more than one vector."""
    split = split_empty_clusters(torch.ones(6, 2), torch.tensor([2, 1, 0, 0, 0, 0]))
    assert [bool((row != 1).any()) for row in split] == [True, False, True, False, False, False]


def test_separate_blobs_are_found():
    centres = 10 * points(12, 8)
    vectors = (centres[:, None] + 0.1 * points(12 * 50, 8, seed=1).view(12, 50, 8)).flatten(0, 1)
    start = vectors[torch.randperm(600, generator=torch.Generator().manual_seed(0))[:12]]
    found = lloyd(vectors, start, 30, split_empty=True)
    assert len(nearest_codewords(vectors, found).unique()) == 12

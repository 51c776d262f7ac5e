import itertools

import pytest
import torch

from hf_ssl.modeling.blocks.permutation_set import all_permutations, permutation_set


def hamming(first, second):
    return sum(a != b for a, b in zip(first, second, strict=True))


def algorithm_1(num_permutations, num_tiles, start):
    """Of arXiv:1603.09246: a matrix of distances to all that are left, in each step."""
    left = list(itertools.permutations(range(num_tiles)))
    chosen = [left.pop(start)]
    while len(chosen) < num_permutations:
        distances = [sum(hamming(one, other) for other in chosen) for one in left]
        chosen.append(left.pop(distances.index(max(distances))))
    return chosen


@pytest.mark.parametrize(("num_permutations", "num_tiles"), [(6, 3), (24, 4), (40, 5)])
def test_greedy_algorithm(num_permutations, num_tiles):
    found = permutation_set(num_permutations, num_tiles, 7).tolist()
    start = list(itertools.permutations(range(num_tiles))).index(tuple(found[0]))
    assert [tuple(row) for row in found] == algorithm_1(num_permutations, num_tiles, start)


def test_all_permutations_in_order():
    for num_tiles in (1, 2, 5):
        columns = [tuple(column) for column in all_permutations(num_tiles).T.tolist()]
        assert columns == list(itertools.permutations(range(num_tiles)))


@pytest.mark.parametrize(("num_permutations", "average", "least"), [(100, 8.08, 2), (1000, 8.00, 2)])
def test_distances_of_the_papers_sets(num_permutations, average, least):
    """The average and the minimum that the paper's table of ablations gives for sets of these sizes."""
    permutations = permutation_set(num_permutations, 9, 0)
    assert permutations.sort(dim=1).values.eq(torch.arange(9)).all()
    distances = (permutations[:, None] != permutations[None]).sum(dim=-1)
    pairs = distances[~torch.eye(num_permutations, dtype=torch.bool)].float()
    assert pairs.mean().item() == pytest.approx(average, abs=0.01)
    assert pairs.min() == least


def test_the_seed_decides():
    assert torch.equal(permutation_set(5, 9, 1), permutation_set.__wrapped__(5, 9, 1))
    assert not torch.equal(permutation_set(5, 9, 1), permutation_set(5, 9, 2))

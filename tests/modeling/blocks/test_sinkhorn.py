import math

import pytest
import torch

from hf_ssl.modeling.blocks.sinkhorn import sinkhorn
from tests.modeling.blocks.joint_rows import rows
from tests.modeling.no_waiting import NoWaiting


def by_hand(scores, epsilon, num_iterations):
    """Q of arXiv:2006.09882 (K x B there): rows are brought to 1/K, columns to 1/B, and at last to 1."""
    num_samples, num_prototypes = scores.shape
    q = [[math.exp(scores[b, k].item() / epsilon) for b in range(num_samples)] for k in range(num_prototypes)]
    for _ in range(num_iterations):
        for k in range(num_prototypes):
            total = sum(q[k])
            q[k] = [value / total / num_prototypes for value in q[k]]
        for b in range(num_samples):
            total = sum(q[k][b] for k in range(num_prototypes))
            for k in range(num_prototypes):
                q[k][b] /= total * num_samples
    return torch.tensor(q).T * num_samples


def cosines(num_samples, num_prototypes):
    return 2 * torch.rand(num_samples, num_prototypes, generator=torch.Generator().manual_seed(0)) - 1


@pytest.mark.parametrize("num_iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_it_is_the_papers_loop(epsilon, num_iterations):
    scores = cosines(6, 4)
    torch.testing.assert_close(sinkhorn(scores, epsilon, num_iterations), by_hand(scores, epsilon, num_iterations))


def test_rows_sum_to_one_and_columns_are_equal():
    codes = sinkhorn(cosines(40, 8), 0.05, 200)
    torch.testing.assert_close(codes.sum(1), torch.ones(40))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 5.0))


def test_a_constant_changes_nothing():
    scores = cosines(6, 4)
    torch.testing.assert_close(sinkhorn(scores + 3, 0.05, 3), sinkhorn(scores, 0.05, 3), rtol=1e-4, atol=1e-7)


def test_all_samples_alike_are_spread_evenly():
    torch.testing.assert_close(sinkhorn(torch.ones(5, 4), 0.05, 3), torch.full((5, 4), 0.25))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_nothing_overflows(scale):
    """exp(1e4 / .05) is beyond every floating-point number, and so is a prototype far from every sample."""
    scores = scale * cosines(12, 5)
    scores[:, 0] -= 3 * scale
    codes = sinkhorn(scores, 0.05, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(12))


def test_it_is_computed_in_fp32():
    scores = cosines(32, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = sinkhorn(scores, 0.05, 3)
    assert torch.equal(codes, sinkhorn(scores, 0.05, 3))


def test_samples_without_weight_are_not_noticed():
    scores, weights = cosines(9, 4), torch.tensor([0.0] * 5 + [1.0] * 4)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3, weights)[5:], sinkhorn(scores[5:], 0.05, 3))


def test_the_host_does_not_wait():
    with NoWaiting():
        sinkhorn(cosines(9, 4), 0.05, 3, torch.ones(9))


def test_two_processes_share_the_prototypes(ranks):
    """8 rows, the first process with 5 of them, of which one has no weight."""
    scores, weights = rows(8, 3), torch.tensor([0.0] + [1.0] * 7)
    joint = sinkhorn(scores, 0.5, 3, weights)
    torch.testing.assert_close(torch.cat([rank["sinkhorn"] for rank in ranks]), joint)

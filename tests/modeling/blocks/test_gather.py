import torch

from hf_ssl.modeling.blocks.gather import gather_with_gradient, num_processes, process_rank, sum_over_processes
from tests.modeling.blocks.joint_rows import rows


def test_one_process_gathers_nothing():
    x = torch.randn(2, 3, requires_grad=True)
    assert gather_with_gradient(x) is x
    assert sum_over_processes(x) is x
    assert (num_processes(), process_rank()) == (1, 0)


def test_two_processes_see_all_rows_in_the_order_of_the_ranks(ranks):
    for rank in ranks:
        assert torch.equal(rank["gathered"]["rows"], rows(4, 3))


def test_gradient_is_the_sum_over_processes(ranks):
    """d/dx of (1 + 2) Σ x², since the loss of rank r is (r + 1) Σ x² over all rows."""
    for rank, own in zip(ranks, rows(4, 3).chunk(2), strict=True):
        torch.testing.assert_close(rank["gathered"]["gradient"], 3 * 2 * own)


def test_two_processes_have_one_sum_and_its_gradient(ranks):
    """d/dx of (1 + 2) (x + x')², as above."""
    first, second = rows(4, 3).chunk(2)
    for rank in ranks:
        torch.testing.assert_close(rank["summed"]["total"], first + second)
        torch.testing.assert_close(rank["summed"]["gradient"], 3 * 2 * (first + second))

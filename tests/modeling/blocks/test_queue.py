import pytest
import torch
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.queue import MemoryQueue


def test_first_in_first_out():
    queue = MemoryQueue(5, 1)
    kept = queue.rows.flatten().tolist()
    for start in (0, 2, 4, 6):
        queue.push(torch.tensor([[start], [start + 1]], dtype=torch.float))
        assert queue.rows.flatten().tolist() == kept  # until the step is over
        queue.commit()
        kept = queue.rows.flatten().tolist()
        assert int(queue.num_filled) == min(start + 2, 5)
    assert kept == [5, 6, 7, 3, 4]
    assert int(queue.pointer) == 3


def test_all_micro_batches_of_a_step_enter_together():
    queue = MemoryQueue(4, 1)
    queue.push(torch.ones(2, 1))
    queue.push(torch.full((1, 1), 2.0))
    queue.commit()
    queue.commit()
    assert queue.rows[:3].flatten().tolist() == [1, 1, 2]


def test_more_rows_than_it_holds():
    queue = MemoryQueue(3, 1)
    for value in range(10):
        queue.push(torch.tensor([[float(value)]]))
    assert len(queue.waiting) == 3
    queue.commit()
    assert sorted(queue.rows.flatten().tolist()) == [7, 8, 9]
    queue.push(torch.arange(5.0)[:, None])
    queue.commit()
    assert sorted(queue.rows.flatten().tolist()) == [2, 3, 4]


def test_it_starts_with_unit_vectors_and_is_no_parameter():
    queue = MemoryQueue(6, 4)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(6))
    assert list(queue.parameters()) == []
    assert set(queue.state_dict()) == {"rows", "pointer", "num_filled"}


def test_rows_carry_no_gradient():
    queue = MemoryQueue(2, 3)
    queue.push(nn.Linear(3, 3)(torch.randn(2, 3)))
    queue.commit()
    assert not queue.rows.requires_grad


def test_a_queue_holds_something():
    with pytest.raises(InputError, match="size is 0"):
        MemoryQueue(0, 3)

import torch
from torch import nn

from hf_ssl.modeling.blocks.item_memory import ItemMemory
from tests.modeling.blocks.joint_rows import rows


def test_rows_are_written_when_the_step_is_over():
    memory = ItemMemory(4, 2)
    memory.push(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    memory.push(torch.tensor([3]), torch.tensor([[5.0, 6.0]]))
    assert not memory.rows.any()
    memory.commit()
    assert memory.rows.tolist() == [[3, 4], [0, 0], [1, 2], [5, 6]]
    memory.commit()
    memory.push(torch.tensor([0]), torch.tensor([[7.0, 8.0]]))
    memory.commit()
    assert memory.rows.tolist() == [[7, 8], [0, 0], [1, 2], [5, 6]]


def test_it_is_saved_and_no_parameter():
    memory = ItemMemory(3, 2, 5)
    assert memory.state_dict()["rows"].shape == (3, 2, 5)
    assert list(memory.parameters()) == []


def test_rows_carry_no_gradient():
    memory = ItemMemory(2, 3)
    memory.push(torch.tensor([1]), nn.Linear(3, 3)(torch.randn(1, 3)))
    memory.commit()
    assert not memory.rows.requires_grad


def test_two_processes_hold_the_rows_of_both(ranks):
    for rank in ranks:
        assert torch.equal(rank["item_memory"][torch.tensor([4, 1, 0, 2])], rows(4, 3))
        assert not rank["item_memory"][3].any()

import pytest
import torch
from torch import nn

from hf_ssl.modeling.blocks.layer_outputs import outputs_of


def test_outputs_are_those_of_the_modules_in_the_order_in_which_they_run():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs = torch.randn(5, 3)
    with outputs_of([model[2], model[0]]) as outputs:
        result = model(inputs)
    assert torch.equal(outputs[0], model[0](inputs))
    assert outputs[1] is result
    model(inputs)
    assert len(outputs) == 2  # nothing is added once the context has ended


def test_hooks_do_not_outlive_a_pass_that_fails():
    model = nn.Linear(3, 4)
    with pytest.raises(RuntimeError), outputs_of([model]):
        model(torch.randn(5, 2))
    assert not model._forward_hooks

import copy

import pytest
import torch
from torch import nn

from hf_ssl.modeling.blocks.gradient import scale_gradient, scaled_output, without_gradient


def test_values_stay_and_gradients_are_scaled():
    x = torch.randn(4, requires_grad=True)
    y = scale_gradient(x, 0.1)
    assert torch.equal(x, y)
    (3 * y).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((4,), 0.3))


def test_only_the_module_and_what_is_before_it_is_scaled():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    plain = copy.deepcopy(model)
    inputs = torch.randn(5, 3)
    plain(inputs).sum().backward()
    with scaled_output(model[0], 0.1) as outputs:
        result = model(inputs)
    result.sum().backward()
    torch.testing.assert_close(model[0].weight.grad, 0.1 * plain[0].weight.grad)
    assert torch.equal(model[2].weight.grad, plain[2].weight.grad)
    assert torch.equal(outputs[0], plain[0](inputs))
    assert len(outputs) == 1


def test_the_module_is_left_as_it_was():
    module = nn.Linear(2, 2)
    with scaled_output(module, 0.5) as outputs:
        pass
    module(torch.randn(1, 2)).sum().backward()
    assert not outputs
    assert not module._forward_hooks
    torch.testing.assert_close(module.bias.grad, torch.ones(2))


def test_without_gradient_nothing_reaches_the_module_nor_what_is_before_it():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    inputs = torch.randn(5, 3)
    with without_gradient(model[1]):
        result = model(inputs)
    assert torch.is_grad_enabled()
    result.sum().backward()
    assert model[0].weight.grad is model[1].weight.grad is None
    assert model[2].weight.grad is not None
    assert torch.equal(result, model(inputs))
    model(inputs).sum().backward()  # the hooks have gone
    assert model[1].weight.grad is not None


def test_without_gradient_restores_what_was_before():
    module = nn.Linear(2, 2)
    with without_gradient(module), pytest.raises(RuntimeError, match="shapes"):
        module(torch.ones(1, 3))
    assert torch.is_grad_enabled()
    with torch.no_grad(), without_gradient(module):
        module(torch.ones(1, 2))
        assert not torch.is_grad_enabled()

import copy

import torch
from torch import nn

from hf_ssl.modeling.blocks.gradient import scale_gradient, scaled_output


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

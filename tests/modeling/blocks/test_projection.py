import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.projection import ProjectionHead


def test_two_layers_by_hand():
    head = ProjectionHead([3, 5, 2], last_batch_norm="scale")
    x = torch.randn(7, 3)
    first, norm, _, second, last_norm = head
    assert first.bias is None
    assert second.bias is None
    assert last_norm.bias is None
    hidden = F.relu(standardise(x @ first.weight.T) * norm.weight + norm.bias)
    torch.testing.assert_close(head(x), standardise(hidden @ second.weight.T) * last_norm.weight, atol=1e-5, rtol=1e-4)


def test_without_batch_norm_the_layers_have_biases():
    head = ProjectionHead([3, 5, 5, 2], batch_norm=False)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert all(layer.bias is not None for layer in head if isinstance(layer, nn.Linear))


def test_single_layer():
    head = ProjectionHead([3, 2])
    assert [type(layer) for layer in head] == [nn.Linear]


def test_plain_last_norm_learns_nothing():
    assert list(ProjectionHead([3, 2], last_batch_norm="plain")[-1].parameters()) == []


def test_biases_that_are_asked_for_and_left_out():
    first, _, _, second = ProjectionHead([3, 5, 2], hidden_bias=True, last_bias=False)
    assert first.bias.shape == (5,)
    assert second.bias is None


def test_a_layer_of_nothing():
    with pytest.raises(InputError, match=r"the sizes \[3, 5, 0\], from input to output"):
        ProjectionHead([3, 5, 0])


def test_each_view_has_its_own_statistics():
    head = ProjectionHead([3, 5, 4, 2], last_batch_norm="scale")
    apart = copy.deepcopy(head)
    views = torch.randn(2, 7, 3) * torch.tensor([1.0, 4.0])[:, None, None]
    torch.testing.assert_close(head.each_view(views), torch.stack([apart(view) for view in views]))
    torch.testing.assert_close(head.state_dict(), apart.state_dict())  # the running statistics too


def standardise(x):
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()

"""The mixed layers against loops over the rows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_ssl.errors import InputError
from hf_ssl.tuners.mixed.layers import LowRank, MixedLayerNorm, MixedLinear, MixedLoRA, Whole
from hf_ssl.tuners.mixed.rows import Rows, computing
from hf_ssl.tuners.mixed.stack import WeightStack

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def low_rank(rank: int) -> LowRank:
    return LowRank(torch.randn(rank, 6), torch.randn(rank, 5))


@pytest.mark.parametrize("slots", [[2, 0, 1, 3, 2], [1, 1, 1, 1, 1], [0, 3, 0, 3, 3], [0, 0, 0, 0, 0]])
def test_lora(slots):
    """W_0 x + B A x, adapter by adapter, row by row; the third adapter has none in this layer."""
    layer, pieces = nn.Linear(6, 5), [low_rank(2), low_rank(4), None]
    x = torch.randn(5, 7, 6)
    expected = layer(x).detach()
    for row, slot in enumerate(slots):
        piece = pieces[slot - 1] if slot else None
        for token in range(7):
            if piece is not None:
                hidden = [sum(piece.down[k, i] * x[row, token, i] for i in range(6)) for k in range(len(piece.down))]
                for k, value in enumerate(hidden):
                    expected[row, token] += piece.up[k] * value
    mixed = MixedLoRA(layer, num_slots=1)
    for piece in pieces:
        mixed.append(piece)
    with computing(Rows.of(slots, CPU)):
        torch.testing.assert_close(mixed(x), expected, rtol=0, atol=1e-5)


def test_rows_of_several_windows():
    """Swin hands a row's windows to its layers as if they were rows."""
    mixed, piece = MixedLoRA(nn.Linear(6, 5), num_slots=1), low_rank(2)
    mixed.append(piece)
    x = torch.randn(3 * 4, 7, 6)
    expected = mixed.base(x) + torch.arange(3).eq(1).repeat_interleave(4)[:, None, None] * (
        x @ piece.down.T @ piece.up
    )
    with computing(Rows.of([0, 1, 0], CPU)):
        torch.testing.assert_close(mixed(x), expected, rtol=0, atol=1e-5)


def test_values_that_are_not_of_the_rows_are_refused():
    mixed = MixedLoRA(nn.Linear(6, 5), num_slots=1)
    mixed.append(low_rank(2))
    for shape in ((1, 8, 6), (8, 6)):  # relative positions; the tokens of all rows one after the other
        with computing(Rows.of([0, 1], CPU)), pytest.raises(InputError, match="batches whose rows all name the same"):
            mixed(torch.randn(shape))
        with computing(Rows.of([1, 1], CPU)):
            assert mixed(torch.randn(shape)).shape == (*shape[:-1], 5)


@pytest.mark.parametrize("shape", [(4, 6), (4, 7, 6)])
@pytest.mark.parametrize("slots", [[1, 0, 2, 1], [2, 2, 2, 2]])
def test_a_layer_of_each_adapter_with_its_own_number_of_classes(shape, slots):
    layers = [nn.Linear(6, 1), nn.Linear(6, 2), nn.Linear(6, 5)]
    mixed = MixedLinear(layers[0], num_slots=1)
    for layer in layers[1:]:
        mixed.append(Whole(layer.weight, layer.bias))
    x = torch.randn(shape)
    with computing(Rows.of(slots, CPU)):
        output = mixed(x)
    assert output.shape == (*shape[:-1], 5)
    for row, slot in enumerate(slots):
        expected = layers[slot](x[row])
        torch.testing.assert_close(output[row, ..., : expected.shape[-1]], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("slots", [[1, 0, 2, 1], [2, 2, 2, 2]])
def test_layer_normalisations(slots):
    mixed = MixedLayerNorm(nn.LayerNorm(6), num_slots=1)
    pieces = [Whole(torch.randn(6), torch.randn(6)), Whole(torch.randn(6), None)]
    for piece in pieces:
        mixed.append(piece)
    x = torch.randn(4, 7, 6)
    with computing(Rows.of(slots, CPU)):
        output = mixed(x)
    for row, slot in enumerate(slots):
        piece = pieces[slot - 1] if slot else Whole(torch.ones(6), None)
        expected = F.layer_norm(x[row], (6,), piece.weight, piece.bias)
        torch.testing.assert_close(output[row], expected, rtol=0, atol=1e-6)


def test_a_stack_gives_what_it_was_given_as_others_come_and_go():
    weights = [torch.randn(size, 3) for size in (0, 2, 4, 1)]
    stack = WeightStack(weights[:2])
    for weight in weights[2:]:
        stack.append(weight)
    assert stack.stacked.shape == (4, 4, 3)
    assert all(torch.equal(stack.of_slot(slot), weight) for slot, weight in enumerate(weights))
    stack.drop(2)
    assert stack.stacked.shape == (3, 2, 3)
    kept = [weights[0], weights[1], weights[3]]
    assert all(torch.equal(stack.of_slot(slot), weight) for slot, weight in enumerate(kept))
    rows = stack.of_rows(Rows.of([2, 0, 2], CPU))  # cut to the largest of the batch
    assert torch.equal(rows, torch.stack([weights[3], torch.zeros(1, 3), weights[3]]))

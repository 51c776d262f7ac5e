import math

import pytest
import torch

from hf_ssl.modeling.blocks.similarity import cosine, direction_spread


def test_cosine_by_hand():
    predictions = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    torch.testing.assert_close(cosine(predictions, targets), torch.tensor([1.0, math.sqrt(0.5), -1.0]))


def test_cosine_is_exact_under_autocast():
    predictions, targets = torch.randn(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cosine(predictions, targets)
    assert torch.equal(inside, cosine(predictions, targets))


def test_directions_that_are_spread_evenly_and_one_direction():
    torch.manual_seed(0)
    assert direction_spread(torch.randn(4000, 64)).item() == pytest.approx(1, rel=0.01)
    one_direction = torch.rand(16, 1) * torch.randn(64)
    assert direction_spread(one_direction).item() == pytest.approx(0, abs=1e-6)

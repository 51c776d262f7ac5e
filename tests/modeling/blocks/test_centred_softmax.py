import math

import pytest
import torch

from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax


def build(size: int = 4, centre_decay: float = 0.9) -> CentredSoftmax:
    return CentredSoftmax(size, centre_decay=centre_decay, temperature=0.04, final_temperature=0.07, warmup_share=0.5)


def test_probabilities_and_entropy_number_by_number() -> None:
    torch.manual_seed(0)
    sharpen, logits = build(), 0.1 * torch.randn(2, 3, 4)
    sharpen.centre.copy_(torch.tensor([0.1, -0.05, 0.0, 0.2]))
    probabilities, entropy = sharpen(logits)
    for i in range(2):
        for j in range(3):
            weights = [math.exp((logits[i, j, k].item() - sharpen.centre[k].item()) / 0.04) for k in range(4)]
            expected = [weight / sum(weights) for weight in weights]
            assert probabilities[i, j].tolist() == pytest.approx(expected, rel=1e-4)
            assert entropy[i, j].item() == pytest.approx(-sum(p * math.log(p) for p in expected), rel=1e-4)


def test_the_centre_moves_once_a_step_towards_the_mean_of_all_micro_batches() -> None:
    sharpen = build()
    sharpen.centre.fill_(1.0)
    before = sharpen(torch.zeros(1, 4))[0]
    sharpen.observe(torch.tensor([1.0, 2.0, 3.0, 4.0]), num_rows=3)
    sharpen.observe(torch.tensor([5.0, 6.0, 7.0, 8.0]), num_rows=1)
    assert torch.equal(sharpen(torch.zeros(1, 4))[0], before)
    sharpen.commit(progress=0.1)
    mean = torch.tensor([2.0, 3.0, 4.0, 5.0])  # (3 · 1 + 5) / 4 ...
    torch.testing.assert_close(sharpen.centre, 0.9 * 1.0 + 0.1 * mean)
    sharpen.commit(progress=0.2)  # nothing waits
    torch.testing.assert_close(sharpen.centre, 0.9 * 1.0 + 0.1 * mean)


def test_what_waits_does_not_grow() -> None:
    """A model whose forward runs in training mode without a trainer never commits."""
    sharpen = build()
    for _ in range(3):
        sharpen.observe(torch.ones(4), num_rows=2)
    assert sharpen.waiting is not None
    assert sharpen.waiting.tolist() == [6.0, 6.0, 6.0, 6.0, 6.0]


def test_the_temperature_warms_up() -> None:
    sharpen = build()
    temperatures = [sharpen.temperature.item()]
    for progress in (0.25, 0.5, 1.0):
        sharpen.commit(progress)
        temperatures.append(sharpen.temperature.item())
    assert temperatures == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_its_state_is_saved() -> None:
    sharpen, other = build(), build()
    sharpen.observe(torch.ones(4), num_rows=1)
    sharpen.commit(progress=0.25)
    assert set(sharpen.state_dict()) == {"centre", "temperature"}
    other.load_state_dict(sharpen.state_dict())
    logits = torch.arange(4.0)
    assert torch.equal(sharpen(logits)[0], other(logits)[0])

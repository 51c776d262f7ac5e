import pytest
import torch

from hf_ssl.tuners.soft_prompt.extension import (
    extend_bias,
    extend_mask,
    extend_rotation,
    extend_stacked_rotation,
)

NUM_PROMPTS = 2
PADDING = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]]).bool()  # the second row is padded at both ends


def naive_mask(attends: torch.Tensor) -> torch.Tensor:
    """(B, T, T) to (B, P + T, P + T): all attend to prompts, and prompts to what some token attends to."""
    batch, tokens, _ = attends.shape
    extended = torch.zeros(batch, NUM_PROMPTS + tokens, NUM_PROMPTS + tokens, dtype=torch.bool)
    for row in range(batch):
        for query in range(NUM_PROMPTS + tokens):
            for key in range(NUM_PROMPTS + tokens):
                if key < NUM_PROMPTS:
                    extended[row, query, key] = True
                elif query < NUM_PROMPTS:
                    extended[row, query, key] = attends[row, :, key - NUM_PROMPTS].any()
                else:
                    extended[row, query, key] = attends[row, query - NUM_PROMPTS, key - NUM_PROMPTS]
    return extended


WINDOW = (torch.arange(4)[:, None] - torch.arange(4)).abs() <= 1
ATTENDS = {
    "keys": PADDING[:, None, :].expand(2, 4, 4),
    "keys and queries": PADDING[:, None, :] & PADDING[:, :, None],
    "keys in a window": PADDING[:, None, :] & WINDOW,
}


@pytest.mark.parametrize("attends", ATTENDS.values(), ids=ATTENDS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32, torch.bfloat16])
def test_mask_is_the_naive_one(attends, dtype):
    mask = attends[:, None].to(dtype)
    if dtype.is_floating_point:
        mask = (1 - mask) * torch.finfo(dtype).min
    extended = extend_mask(mask, NUM_PROMPTS)
    assert extended.dtype == dtype
    through = extended == 0 if dtype.is_floating_point else extended.bool()
    torch.testing.assert_close(through[:, 0], naive_mask(attends))


def test_mask_of_minus_infinity():
    mask = torch.zeros(2, 1, 4, 4).masked_fill(~ATTENDS["keys"][:, None], -torch.inf)
    torch.testing.assert_close(extend_mask(mask, NUM_PROMPTS)[:, 0] == 0, naive_mask(ATTENDS["keys"]))


def test_mask_without_queries():
    extended = extend_mask(PADDING, NUM_PROMPTS)
    assert extended.tolist() == [[True, True, *row] for row in PADDING.tolist()]
    broadcast = extend_mask(PADDING[:, None, None], NUM_PROMPTS)
    assert torch.equal(broadcast[:, 0, 0], extended)


def test_biases_added_to_a_mask_stay_and_prompts_have_none():
    bias = torch.randn(1, 2, 4, 4)
    extended = extend_mask(bias, NUM_PROMPTS)
    assert torch.equal(extended[..., NUM_PROMPTS:, NUM_PROMPTS:], bias)
    assert not extended[..., :NUM_PROMPTS, :].any()
    assert not extended[..., :NUM_PROMPTS].any()
    assert torch.equal(extend_bias(bias, NUM_PROMPTS), extended)


def test_no_rotation_turns_a_prompt():
    angles = torch.randn(1, 4, 6)
    cos, sin = extend_rotation((angles.cos(), angles.sin()), NUM_PROMPTS)
    assert torch.equal(cos[:, NUM_PROMPTS:], angles.cos())
    assert torch.equal(sin[:, NUM_PROMPTS:], angles.sin())
    assert (cos[:, :NUM_PROMPTS] == 1).all()
    assert (sin[:, :NUM_PROMPTS] == 0).all()

    stacked = extend_stacked_rotation(torch.stack([angles.cos(), angles.sin()]).reshape(2, 4, 1, 1, 6), NUM_PROMPTS)
    assert torch.equal(stacked, torch.stack([cos, sin]).reshape(2, 6, 1, 1, 6))

import math

import pytest
import torch

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.block_masking import block_mask


def masks(number, *args, **kwargs):
    return torch.stack([block_mask(*args, item_generator(0, 0, index), **kwargs) for index in range(number)])


def naive_mask(grid, num_masked, min_block, generator):
    """Algorithm 1 of arXiv:2106.08254, set of patches by set of patches."""
    masked = set()
    while len(masked) < num_masked:
        left = num_masked - len(masked)
        for draws in torch.rand(10, 4, generator=generator, dtype=torch.float64):
            area = min_block + (left - min_block) * float(draws[0])
            ratio = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * float(draws[1]))
            a, b = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if a >= grid[0] or b >= grid[1]:
                continue
            top, start = int(float(draws[2]) * (grid[0] - a + 1)), int(float(draws[3]) * (grid[1] - b + 1))
            new = {(top + i, start + j) for i in range(a) for j in range(b)} - masked
            if 0 < len(new) <= left:
                masked |= new
                break
        else:
            break
    return torch.tensor([[(i, j) in masked for j in range(grid[1])] for i in range(grid[0])])


@pytest.mark.parametrize("grid", [(14, 14), (8, 12)])
def test_it_is_the_papers_algorithm(grid):
    for index in range(20):
        expected = naive_mask(grid, 40, 16, item_generator(0, 0, index))
        assert torch.equal(block_mask(grid, 40, item_generator(0, 0, index)), expected)


def test_number_of_masked_patches():
    counts = masks(300, (14, 14), 75).flatten(1).sum(dim=1)
    assert counts.max() <= 75
    assert 74 < counts.float().mean() < 75  # the docstring's 74.5
    assert counts.min() >= 75 - 2 * 16


def test_an_exact_number():
    loose, exact = (masks(100, (14, 14), 120, exact=exact) for exact in (False, True))
    assert (loose.flatten(1).sum(dim=1) < 120).any()
    assert (exact.flatten(1).sum(dim=1) == 120).all()
    assert (exact | ~loose).all()  # the blocks stay


def test_blocks_reach_every_patch_and_prefer_no_side():
    share = masks(500, (14, 14), 75).float().mean(dim=0)
    assert share.min() > 0.01
    torch.testing.assert_close(share, share.flip(0), atol=0.12, rtol=0)
    torch.testing.assert_close(share, share.flip(1), atol=0.12, rtol=0)


def test_masks_hang_together():
    """A masked patch has masked neighbours more often than among patches that are drawn one by one."""
    mask = masks(100, (14, 14), 75)
    both = (mask[:, :, 1:] & mask[:, :, :-1]).float().mean() / mask.float().mean()
    assert both > 0.7  # by chance: .37


def test_nothing_to_mask_and_everything():
    assert not block_mask((4, 4), 0, item_generator(0, 0, 0)).any()
    assert block_mask((4, 4), 16, item_generator(0, 0, 0), min_block=2, exact=True).all()

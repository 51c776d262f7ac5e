import math

import pytest
import torch

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.multi_block_masking import multi_block_masks

PAPER = {"num_targets": 4, "target_scale": (0.15, 0.2), "target_aspect": (0.75, 1.5), "context_scale": (0.85, 1.0)}


def drawn(grid, index, num_context, **fields):
    return multi_block_masks(grid, item_generator(0, 0, index), num_context=num_context, **{**PAPER, **fields})


def block_of(positions, columns):
    """Height and width of the smallest rectangle around some positions."""
    rows, places = [p // columns for p in positions], [p % columns for p in positions]
    return max(rows) - min(rows) + 1, max(places) - min(places) + 1


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (10, 14)])
def test_targets_are_blocks_and_the_context_has_none_of_them(grid):
    num_patches = math.prod(grid)
    num_context = num_patches // 4
    for index in range(60):
        context, targets = drawn(grid, index, num_context)
        assert context.shape == (num_context,)
        assert context.tolist() == sorted(set(context.tolist()))
        assert context.max() < num_patches
        assert not set(context.tolist()) & set(targets.flatten().tolist())
        sizes = {block_of(target.tolist(), grid[1]) for target in targets}
        assert len(sizes) == 1  # of one image, all have the same
        height, width = sizes.pop()
        assert targets.shape == (4, height * width)
        assert 0.75 / 1.5 < height / width < 1.5 * 1.5  # rounded to whole patches
        assert 0.1 < height * width / num_patches < 0.25


def test_areas_and_aspect_ratios_are_uniform():
    areas, ratios, tops = [], [], []
    for index in range(300):
        _, targets = drawn((64, 64), index, 100)
        height, width = block_of(targets[0].tolist(), 64)
        areas.append(height * width / 64**2)
        ratios.append(height / width)
        tops.append(int(targets[0, 0]) // 64 / (64 - height))
    areas, ratios, tops = (torch.tensor(values) for values in (areas, ratios, tops))
    assert areas.mean().item() == pytest.approx(0.175, abs=0.005)
    assert ratios.mean().item() == pytest.approx(1.125, abs=0.05)
    assert tops.mean().item() == pytest.approx(0.5, abs=0.06)
    assert tops.min() == 0
    assert tops.max() == 1


def test_the_context_is_cut_from_any_side():
    """What of the largest context is left: with one tiny target, rows above or below, columns left or right."""
    centres = []
    for index in range(200):
        fields = {"num_targets": 1, "target_scale": (0.01, 0.01), "target_aspect": (1, 1), "context_scale": (1, 1)}
        context, _ = drawn((10, 10), index, 30, **fields)
        row, column = (context // 10).float().mean(), (context % 10).float().mean()
        centres.append((round(row.item() / 9, 1), round(column.item() / 9, 1)))
    assert set(centres) <= {(0.1, 0.5), (0.9, 0.5), (0.5, 0.1), (0.5, 0.9), (0.1, 0.4), (0.4, 0.1), (0.9, 0.4)} | {
        (0.1, 0.6),
        (0.6, 0.1),
        (0.9, 0.6),
        (0.4, 0.9),
        (0.6, 0.9),
    }
    for side in range(4):
        near = sum((row < 0.3, row > 0.7, column < 0.3, column > 0.7)[side] for row, column in centres)
        assert 25 < near < 75


def test_blocks_that_leave_too_little_overlap_with_the_context():
    """Targets as large as the image leave nothing: then some of them are not taken out of the context."""
    context, targets = drawn((4, 4), 0, 6, target_scale=(1, 1), target_aspect=(1, 1))
    assert context.shape == (6,)
    assert targets.tolist() == [list(range(16))] * 4


def test_known_by_its_generator():
    first, second, other = (drawn((14, 14), index, 49) for index in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])

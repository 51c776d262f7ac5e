"""Masks of an image's patches made of rectangular blocks that may overlap (BEiT, arXiv:2106.08254, algorithm 1)."""

# h x w patches of an image

import math

import numpy as np
import torch
from torch import Tensor

BLOCK_TRIES = 10
ASPECT = (0.3, 1 / 0.3)


def block_mask(
    grid: tuple[int, int],
    num_masked: int,
    generator: torch.Generator,
    *,
    min_block: int = 16,
    aspect: tuple[float, float] = ASPECT,
    exact: bool = False,
) -> Tensor:
    """Masks the patches of one image block by block, until `num_masked` of them are masked or no block fits any more.

    A block's area is uniform between `min_block` and what is left of `num_masked`, its aspect ratio log-uniform. A
    block that would be as high or wide as the image, that masks nothing new or more than is left is drawn again, at
    most 10 times. When all of them fail the mask is finished, a few patches below the target: of 14 x 14 patches and
    75 to mask about 72 are masked on average.

    Reference: `MaskingGenerator` of microsoft/unilm (beit/masking_generator.py, commit 2312c6f). As there, the last
    block may be smaller than `min_block`: its area is uniform between `min_block` and what is left, whichever is less.

    Args:
        grid (`tuple[int, int]`): h rows and w columns of patches.
        num_masked (`int`): patches to mask, in 0 … h·w.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.
        min_block (`int`): patches of the smallest block, ≥ 1.
        aspect (`tuple[float, float]`): the range of height / width of a block, both > 0.
        exact (`bool`): whether the patches that are missing at the end are drawn one by one among the unmasked ones,
            so that exactly `num_masked` are masked and the masks of a batch make a rectangle.

    Returns:
        boolean `Tensor` of shape `(h, w)`: `True` = masked.
    """
    mask = np.zeros(grid, dtype=bool)
    left = num_masked
    while left > 0:
        newly_masked = _mask_a_block(mask, left, generator, min_block, aspect)
        if newly_masked == 0:
            break
        left -= newly_masked
    result = torch.from_numpy(mask)
    if exact and left > 0:
        unmasked = (~result).flatten().nonzero()[:, 0]
        chosen = torch.randperm(len(unmasked), generator=generator)[:left]
        result.view(-1)[unmasked[chosen]] = True
    return result


def _mask_a_block(
    mask: np.ndarray, left: int, generator: torch.Generator, min_block: int, aspect: tuple[float, float]
) -> int:
    """Masks the first of 10 random blocks that fits, in place; returns how many patches that masks, 0 if none fits."""
    rows, columns = mask.shape
    low, high = math.log(aspect[0]), math.log(aspect[1])
    draws = torch.rand(BLOCK_TRIES, 4, generator=generator, dtype=torch.float64)
    for of_area, of_aspect, of_top, of_left in draws.tolist():
        area = min_block + (left - min_block) * of_area
        ratio = math.exp(low + (high - low) * of_aspect)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height >= rows or width >= columns:
            continue
        top, start = int(of_top * (rows - height + 1)), int(of_left * (columns - width + 1))
        block = mask[top : top + height, start : start + width]
        newly_masked = block.size - int(np.count_nonzero(block))
        if 0 < newly_masked <= left:
            block[:] = True
            return newly_masked
    return 0

"""Masks of the patches of an image's views: drawn for some of the views, weighed view by view (iBOT)."""

# B images, V views, P = h x w patches of a view, M masked patches of the image that has most

import torch
from torch import Tensor

from hf_ssl.modeling.blocks.block_masking import block_mask
from hf_ssl.modeling.blocks.positions import NOWHERE


def draw_view_mask(
    grid: tuple[int, int], generator: torch.Generator, probability: float, ratios: tuple[float, float]
) -> Tensor:
    """Draws the mask of one view: none at all, or blocks (Zhou et al. 2021, arXiv:2111.07832, section 3.2).

    A block has at least as many patches as a square of a third of the grid's side: 16 of 14 x 14.

    Args:
        grid (`tuple[int, int]`): h rows and w columns of patches.
        generator (`torch.Generator`): the only source of randomness.
        probability (`float`): that there are masked patches.
        ratios (`tuple[float, float]`): least and largest share of them, between which it is uniform.

    Returns:
        boolean `Tensor` of shape `(h, w)`: `True` = masked.
    """
    chance, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    low, high = ratios
    ratio = low + (high - low) * place if chance < probability else 0.0
    return block_mask(grid, int(ratio * grid[0] * grid[1]), generator, min_block=max(1, (min(grid) // 3) ** 2))


def patch_weights(mask: Tensor, positions: Tensor) -> Tensor:
    """The weights of masked patches in their image's loss: the masked patches of each view share 1 / V.

    Args:
        mask (boolean `Tensor` of shape `(B, V, P)`): `True` = masked.
        positions (`Tensor` of shape `(B, M)`): of the masked ones among an image's V P patches.

    Returns:
        `Tensor` of shape `(B, M)`, fp32: 0 where there is no position.
    """
    num_views, num_patches = mask.shape[1:]
    of_views = 1 / (num_views * mask.sum(dim=2).clamp(min=1).float())  # (B, V)
    weights = of_views.gather(1, positions.clamp(min=0) // num_patches)
    return weights.where(positions != NOWHERE, 0.0)

"""Several blocks of patches to predict, and a context without them (I-JEPA, arXiv:2301.08243, section 3)."""

# P = h x w patches of an image, T target blocks of M patches, K patches of the context

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_TRIES = 20


def multi_block_masks(
    grid: tuple[int, int],
    generator: torch.Generator,
    *,
    num_targets: int,
    num_context: int,
    target_scale: Sequence[float],
    target_aspect: Sequence[float],
    context_scale: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Draws the target blocks of one image, all of one size, and a context that has none of their patches.

    A block's area and aspect ratio are uniform. The context is a square block, less the targets; of what is left
    beyond `num_context` patches the end is cut off, in one of four orders: from above, from below, from the left or
    from the right. Blocks that leave too few are placed again, at most 20 times; after that one target more at a time
    may overlap with the context.

    Reference: `MaskCollator` of facebookresearch/ijepa (src/masks/multiblock.py, commit 52c1ae9), which draws one size
    for all images of a batch and cuts every context to the smallest of the batch, always from below: of 14 x 14
    patches 42 % are left on average, and 26 % in the smallest of 128. Here an image does not depend on the others
    beside it: it has a size of its own, and `num_context` is given. There, area and aspect ratio come from one and the
    same random number, and no block touches the lower or the right border; here they are drawn apart, and blocks lie
    anywhere.

    Args:
        grid (`tuple[int, int]`): h rows and w columns of patches.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.
        num_targets (`int`): T.
        num_context (`int`): K, at most half of the smallest context block (which is rounded to whole patches).
        target_scale (`Sequence[float]`): range of a target block's share of the image.
        target_aspect (`Sequence[float]`): range of its height / width.
        context_scale (`Sequence[float]`): range of the context block's share of the image.

    Returns:
        two `Tensor`, int64, of positions row by row: the context, of shape `(K,)` and in ascending order, and the
        targets, of shape `(T, M)`.
    """
    target_size = _block_size(grid, target_scale, target_aspect, generator)
    context_size = _block_size(grid, context_scale, (1.0, 1.0), generator)
    for num_excluded in range(num_targets, -1, -1):
        for _ in range(BLOCK_TRIES):
            targets = [_placed(grid, target_size, generator) for _ in range(num_targets)]
            context = _placed(grid, context_size, generator)
            for target in targets[:num_excluded]:
                context &= ~target
            if context.sum() >= num_context:
                positions = torch.stack([target.flatten().nonzero()[:, 0] for target in targets])
                return _cut(context, num_context, generator), positions
    raise AssertionError(f"A context block of {context_size} has less than {num_context} patches.")


def _block_size(
    grid: tuple[int, int], scale: Sequence[float], aspect: Sequence[float], generator: torch.Generator
) -> tuple[int, int]:
    """Height and width of a block, in patches: at least 1, at most those of the grid."""
    of_area, of_aspect = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    area = int(grid[0] * grid[1] * (scale[0] + of_area * (scale[1] - scale[0])))
    ratio = aspect[0] + of_aspect * (aspect[1] - aspect[0])
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])


def _placed(grid: tuple[int, int], size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A block of some size at a random place: boolean, (h, w)."""
    top, left = (
        int(torch.randint(room - side + 1, (), generator=generator)) for room, side in zip(grid, size, strict=True)
    )
    mask = torch.zeros(grid, dtype=torch.bool)
    mask[top : top + size[0], left : left + size[1]] = True
    return mask


def _cut(context: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """The first of the context's patches (h, w) in a random one of four orders: positions, ascending."""
    positions = torch.arange(context.numel()).view(context.shape)
    by_column, backwards = torch.randint(2, (2,), generator=generator).tolist()
    order = (positions.T if by_column else positions).flatten()
    order = order.flip(0) if backwards else order
    return order[context.flatten()[order]][:number].sort().values

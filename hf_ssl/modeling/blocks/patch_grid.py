"""The nine patches of an image: where they lie, cutting them out, taking away what tells their place cheaply."""

# B images, P = 9 patches, C = 3 channels, S side of an image, s side of a patch, in pixels

import torch
from torch import Tensor

from hf_ssl.errors import InputError

GRID = 3
NUM_PATCHES = GRID**2

FLAT = 1e-5
"""Added to a patch's variance, so that a patch of a single colour becomes 0."""


def check_patch_sizes(patch_size: int, **at_least_0: int) -> None:
    """Raise `InputError` for a patch of no pixels, or another size of a config that is below 0."""
    if patch_size < 1:
        raise InputError(f"patch_size is {patch_size}; give the side of a patch in pixels, at least 1.")
    for name, value in at_least_0.items():
        if value < 0:
            raise InputError(f"{name} is {value}; give a number of pixels, at least 0.")


def draw_patch_corners(
    image_size: int,
    *,
    patch_size: int,
    patch_jitter: int,
    generators: list[torch.Generator],
    channel_jitter: int = 0,
) -> Tensor:
    """Where the patches of B images lie: one in each cell of a grid of 3 x 3, with a gap between them.

    A cell has `image_size // 3` pixels, what is left over lies outside of the grid. Of the room that a patch leaves in
    its cell it takes a random place within `patch_jitter` pixels, around the middle; so the gap between two patches is
    that room on average, and at least the room less `patch_jitter`.

    Args:
        image_size (`int`): S.
        patch_size (`int`): s.
        patch_jitter (`int`): the range, in pixels, of a patch's place along each axis: 0 … `patch_jitter`.
        generators (`list[torch.Generator]`): B of them; image `i` draws from its own.
        channel_jitter (`int`): each colour channel of a patch lies by up to so many pixels beside it, along each axis,
            but within the image.

    Returns:
        `Tensor` of shape `(B, 9, 3, 2)`: the uppermost row and the leftmost column of each patch and channel, int64;
            patches from left to right, then from top to bottom.

    Raises:
        InputError: when the patch and its jitter do not fit into a cell.
    """
    cell = image_size // GRID
    room = cell - patch_size
    if patch_jitter > room:
        raise InputError(
            f"A patch of {patch_size} pixels and a jitter of {patch_jitter} do not fit into a third of an image of "
            f"{image_size} pixels; lower model.patch_size or model.patch_jitter, or raise data.image_size to "
            f"{GRID * (patch_size + patch_jitter)}."
        )
    cells = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)) * cell  # (9, 2)
    first = (image_size - GRID * cell) // 2 + (room - patch_jitter) // 2
    corners = []
    for generator in generators:
        place = torch.randint(patch_jitter + 1, (NUM_PATCHES, 1, 2), generator=generator)
        shift = torch.randint(-channel_jitter, channel_jitter + 1, (NUM_PATCHES, 3, 2), generator=generator)
        corners.append(first + cells[:, None] + place + shift)
    return torch.stack(corners).clamp(0, image_size - patch_size)


def cut_patches(pixel_values: Tensor, corners: Tensor, patch_size: int) -> Tensor:
    """The patches at the corners.

    Args:
        pixel_values (`Tensor` of shape `(B, C, S, S)`): images.
        corners (`Tensor` of shape `(B, P, C, 2)`): from [`draw_patch_corners`].
        patch_size (`int`): s.

    Returns:
        `Tensor` of shape `(B, P, C, s, s)`.
    """
    side = torch.arange(patch_size, device=corners.device)
    rows, columns = (corners[..., None] + side).unbind(dim=-2)  # (B, P, C, s) each
    image = torch.arange(corners.shape[0], device=corners.device)[:, None, None, None, None]
    channel = torch.arange(corners.shape[2], device=corners.device)[:, None, None]
    return pixel_values[image, channel, rows[..., :, None], columns[..., None, :]]


def standardise(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and variance 1 over its channels and pixels together.

    Neighbours are alike in brightness and contrast, which would give them away.

    Args:
        patches (`Tensor` of shape `(B, P, C, s, s)`): patches, in fp32.

    Returns:
        `Tensor` of the same shape; 0 where a patch has one value only.
    """
    variance, mean = torch.var_mean(patches, dim=(2, 3, 4), correction=0, keepdim=True)
    return (patches - mean) * torch.rsqrt(variance + FLAT)

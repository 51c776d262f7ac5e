"""Images cut into patches, patches by their positions, and where a patch stands."""

# N images, C x H x W pixels, P = h x w patches of p x q pixels, M positions, D dimensions

import torch
from torch import Tensor

TEMPERATURE = 10_000.0
"""The longest wavelength of sine-cosine positions, over 2π patches."""


def patchify(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """The pixels of each patch.

    Args:
        images (`Tensor` of shape `(N, C, H, W)`): H a multiple of h, W of w.
        grid (`tuple[int, int]`): h and w.

    Returns:
        `Tensor` of shape `(N, P, p·q·C)`: patches row by row, and in each its pixels row by row, channels last (the
        order of MAE's and transformers' decoders).
    """
    rows, columns = grid
    return (
        images.unflatten(3, (columns, -1))
        .unflatten(2, (rows, -1))  # (N, C, h, p, w, q)
        .permute(0, 2, 4, 3, 5, 1)
        .flatten(3)
        .flatten(1, 2)
    )


def sincos_positions(grid: tuple[int, int], dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions of two axes: half of the dimensions are of the column, half of the row.

    Reference: `get_2d_sincos_pos_embed` of facebookresearch/mae (util/pos_embed.py, commit efb2a80), where the column
    comes first.

    Args:
        grid (`tuple[int, int]`): h and w.
        dim (`int`): D, a multiple of 4.
        device (`torch.device`, *optional*): of the result.

    Returns:
        `Tensor` of shape `(P, D)`, fp32: of each axis `sin(x ω_i)` for all i and then `cos(x ω_i)`, with
        `ω_i = 10,000^(−i / (D/4))`.
    """
    rows, columns = (torch.arange(size, device=device, dtype=torch.float32) for size in grid)
    exponents = torch.arange(dim // 4, device=device, dtype=torch.float32) / (dim // 4)
    frequencies = TEMPERATURE**-exponents
    of_row = (rows[:, None] * frequencies)[:, None].expand(-1, len(columns), -1)  # (h, w, D/4)
    of_column = (columns[:, None] * frequencies)[None].expand(len(rows), -1, -1)
    angles = (of_column, of_row)
    return torch.cat([wave for x in angles for wave in (x.sin(), x.cos())], dim=-1).flatten(0, 1)


def take_patches(patches: Tensor, positions: Tensor) -> Tensor:
    """The patches (N, P, D) at the positions (N, M): `(N, M, D)`."""
    return patches.gather(1, positions[..., None].expand(-1, -1, patches.shape[-1]))


def random_patches(num_patches: int, number: int, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """For each image some patches, all sets being equally likely, and the others.

    Args:
        num_patches (`int`): P.
        number (`int`): M, of the patches that are drawn.
        generators (`list[torch.Generator]`): one an image.

    Returns:
        two `Tensor` of shapes `(N, M)` and `(N, P − M)`, int64: positions in ascending order.
    """
    order = torch.stack([torch.randperm(num_patches, generator=generator) for generator in generators])
    drawn, others = order.split([number, num_patches - number], dim=1)
    return drawn.sort(dim=1).values, others.sort(dim=1).values

"""Which patches of an image are to be predicted, and what stands in their place: BERT's 80/10/10 for patches."""

# B images, P patches, M of them corrupted, D dimensions of a patch embedding

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ssl.modeling.blocks.patches import random_patches, take_patches


@dataclass(frozen=True, kw_only=True)
class CorruptedPatches:
    """What a batch of images has in place of its patches.

    Args:
        positions (`Tensor` of shape `(B, M)`, int64): the patches to predict, in ascending order.
        mask (boolean `Tensor` of shape `(B, P)`): where a mask token stands.
        sources (`Tensor` of shape `(B, P)`, int64): elsewhere, whose embedding stands there; mostly the patch's own.
    """

    positions: Tensor
    mask: Tensor
    sources: Tensor


def draw_corruption(
    num_patches: int,
    num_corrupted: int,
    generators: list[torch.Generator],
    *,
    mask_token_share: float,
    random_patch_share: float,
) -> CorruptedPatches:
    """Draws, for each image from its own generator, which patches are corrupted and how.

    Args:
        num_patches (`int`): P, at least 2.
        num_corrupted (`int`): M.
        generators (`list[torch.Generator]`): one an image.
        mask_token_share (`float`): of the corrupted patches, those that a mask token stands for (in expectation).
        random_patch_share (`float`): those that another patch of the image stands for; the rest stay as they are.
    """
    positions, _ = random_patches(num_patches, num_corrupted, generators)
    fate = torch.stack([torch.rand(num_corrupted, generator=generator) for generator in generators])
    others = torch.stack(
        [torch.randint(1, num_patches, (num_corrupted,), generator=generator) for generator in generators]
    )
    others = (positions + others) % num_patches  # any patch but itself
    is_masked = fate < mask_token_share
    is_replaced = ~is_masked & (fate < mask_token_share + random_patch_share)
    themselves = torch.arange(num_patches).expand(len(positions), -1)
    return CorruptedPatches(
        positions=positions,
        mask=torch.zeros(len(positions), num_patches, dtype=torch.bool).scatter(1, positions, is_masked),
        sources=themselves.scatter(1, positions, torch.where(is_replaced, others, positions)),
    )


def corrupt(patches: Tensor, mask: Tensor, sources: Tensor, mask_token: Tensor) -> Tensor:
    """The patch embeddings (B, P, D) with what [`CorruptedPatches`] says in their place, the mask token being (D,)."""
    return torch.where(mask[..., None], mask_token.to(patches.dtype), take_patches(patches, sources))

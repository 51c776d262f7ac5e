"""Mixup and CutMix: two images with their classes become one image that is partly of either class."""

# B images, C channels, H × W pixels, K classes

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[int, int, int, int]
"""First row, first column, row after the last and column after the last."""
NO_BOX: Box = (0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class ImageMixing:
    """How images are mixed; the same for [`draw`] (in the data loader) and [`mix_images`] (on the device).

    Mixup (Zhang et al. 2018, arXiv:1710.09412): `x ← λ x + (1 - λ) x'`, λ ~ Beta(α, α). CutMix (Yun et al. 2019,
    arXiv:1905.04899): a box of x' of the share 1 - λ of the image is pasted into x. Either way the target is
    `λ y + (1 - λ) y'`, λ of a box that is cut off by the border being what is left of x.

    kornia's `RandomMixUpV2` and `RandomCutMixV2` are not used: they draw from the global generator, and Mixup's λ
    there is uniform. Deviation from timm's `Mixup` as MAE has it (one λ, and one of the two ways, for a whole batch):
    each image has its own, known by (seed, epoch, item), as in timm's `mode="elem"`. The other image is the one before
    it in its batch (of one device and one micro-batch).

    Args:
        mixup (`float`): α of Mixup; 0 for none.
        cutmix (`float`): α of CutMix; 0 for none.
        probability (`float`): share of the images that are mixed.
        cutmix_share (`float`): share of these that are cut, where both are wanted.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    cutmix_share: float = 0.5

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[float, Box]:
        """How one image of H × W pixels is mixed: its weight, and the box that the other one fills."""
        if rng.random() >= self.probability:
            return 1.0, NO_BOX
        if self.cutmix > 0 and (self.mixup == 0 or rng.random() < self.cutmix_share):
            return 1.0, draw_box(size, rng.beta(self.cutmix, self.cutmix), rng)
        return rng.beta(self.mixup, self.mixup), NO_BOX


def draw_box(size: tuple[int, int], kept: float, rng: np.random.Generator) -> Box:
    """A box of the share 1 - `kept` of the image and of its shape, around any pixel; what is outside is cut off."""
    height, width = size
    half_height, half_width = (int(side * np.sqrt(1 - kept)) // 2 for side in size)
    row, column = int(rng.integers(height)), int(rng.integers(width))
    return (
        max(row - half_height, 0),
        max(column - half_width, 0),
        min(row + half_height, height),
        min(column + half_width, width),
    )


def mix_images(images: Tensor, weights: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it in the batch; the first with the last.

    Args:
        images (`Tensor`): x (B, C, H, W).
        weights (`Tensor`): (B,), of x outside its box.
        boxes (`Tensor`): (B, 4), int64; see [`Box`].

    Returns:
        the mixed images (B, C, H, W), and λ (B,): the mean weight of x in each.
    """
    top, left, bottom, right = boxes.T[..., None]  # each (B, 1)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    own = weights[:, None, None] * ~(in_rows[:, :, None] & in_columns[:, None, :])  # (B, H, W)
    return torch.lerp(images.roll(1, dims=0), images, own[:, None].to(images.dtype)), own.mean(dim=(1, 2))


def mix_labels(labels: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """The targets (B, K) of mixed images, fp32: their classes (B,) by λ (B,) and those of the images before them."""
    targets = F.one_hot(labels, num_classes).float()
    return torch.lerp(targets.roll(1, dims=0), targets, shares[:, None])

"""The random views of an image.

All that is random of a view is drawn, from its item's generator, before anything is computed: so a view is known by
(seed, epoch, index), wherever and in whatever batch it is made. The geometric part (crop, resize, flip) is done image
by image in the workers and leaves 8-bit pixels; the photometric part (jitter, grey, blur, solarize, normalisation) is
batched, on the device or in the workers, and gives the same views in both places.
"""

# B images, V views, K draws, S side of a view, N = B * V

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hf_ssl.data.photometry import color_jitter, gaussian_blur, grayscale, solarize
from hf_ssl.errors import unknown_name

CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10
FLIP_PROBABILITY = 0.5
GRAYSCALE_PROBABILITY = 0.2
BLUR_SIGMA = (0.1, 2.0)
"""Pixels; the papers' value for images of 224."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How one view is drawn.

    Args:
        crop_area (`tuple[float, float]`): range of the crop's share of the image.
        jitter (`tuple[float, float, float, float]`): strengths of brightness, contrast and saturation, whose factors
            are uniform in [max(0, 1 - s), 1 + s], and of hue, which is uniform in [-s, s] of the circle.
        jitter_probability (`float`): of the colour jitter as a whole.
        blur_probability (`float`): of the Gaussian blur.
        solarize_probability (`float`): of the inversion of bright pixels.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    jitter: tuple[float, float, float, float]
    jitter_probability: float = 0.8
    blur_probability: float
    solarize_probability: float = 0.0


_SIMCLR = View(jitter=(0.8, 0.8, 0.8, 0.2), blur_probability=0.5)
_SIMCLR_SMALL = View(jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0.0)
_MOCO_V2 = View(crop_area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0.5)
_BYOL_FIRST = View(jitter=(0.4, 0.4, 0.2, 0.1), blur_probability=1.0)
_BYOL_SECOND = View(jitter=(0.4, 0.4, 0.2, 0.1), blur_probability=0.1, solarize_probability=0.2)

AUGMENTATIONS: dict[str, tuple[View, ...]] = {
    "simclr": (_SIMCLR, _SIMCLR),  # Chen et al. 2020, appendix A, ImageNet
    "simclr_small": (_SIMCLR_SMALL, _SIMCLR_SMALL),  # the same, appendix B.9, CIFAR-10: half the jitter, no blur
    "moco_v2": (_MOCO_V2, _MOCO_V2),  # Chen et al. 2020, arXiv:2003.04297; also SimSiam
    "byol": (_BYOL_FIRST, _BYOL_SECOND),  # Grill et al. 2020, appendix B; also Barlow Twins, VICReg, MoCo v3
}

CPU_VALUES_AT_ONCE = 2**20
DEVICE_VALUES_AT_ONCE = 2**26
"""The photometric part goes through a batch in pieces of so many values: on a CPU as many as its cache holds, which is
three times as fast at 224 pixels; elsewhere 256 MiB, of which it needs several."""

_DRAWS = {"tries": 2 * CROP_TRIES, "place": 2, "flip": 1, "jitter": 1, "turns": 4, "factors": 4, "others": 4}
NUM_DRAWS = sum(_DRAWS.values())
"""K: how many numbers in [0, 1) a view needs; the same for every preset."""


def augmentation(name: str) -> tuple[View, ...]:
    """The views of a preset.

    Raises:
        InputError: for a name that is not in `AUGMENTATIONS`.
    """
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation (data.augmentation)", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def draw_views(num_views: int, generators: list[torch.Generator]) -> dict[str, Tensor]:
    """All that is random of the views of B images: uniform numbers (B, V, k) under the names of `_DRAWS`, in fp64."""
    draws = [torch.rand(num_views, NUM_DRAWS, generator=generator, dtype=torch.float64) for generator in generators]
    return dict(zip(_DRAWS, torch.stack(draws).split(list(_DRAWS.values()), dim=-1), strict=True))


def crop_boxes(views: tuple[View, ...], draws: dict[str, Tensor], sizes: list[tuple[int, int]]) -> Tensor:
    """The random crops: of 10 draws of area and aspect ratio the first that fits, or else the largest central crop.

    Args:
        views (`tuple[View, ...]`): V recipes.
        draws (`dict[str, Tensor]`): from [`draw_views`].
        sizes (`list[tuple[int, int]]`): width and height of each image, in pixels.

    Returns:
        `Tensor` of shape `(B, V, 4)`: left, top, right and bottom, in pixels, int64.
    """
    width, height = torch.tensor(sizes, dtype=torch.float64).T[:, :, None, None]  # (B, 1, 1) each
    low, high = torch.tensor([view.crop_area for view in views], dtype=torch.float64).T[:, None, :, None]  # (1, V, 1)
    of_area, of_aspect = draws["tries"].chunk(2, dim=-1)  # (B, V, tries) each
    area = width * height * (low + (high - low) * of_area)
    log_low, log_high = (math.log(ratio) for ratio in CROP_ASPECT)
    aspect = torch.exp(log_low + (log_high - log_low) * of_aspect)
    # a last "try" that always fits
    central_width = torch.minimum(width, (height * CROP_ASPECT[1]).round()).expand_as(area[:, :, :1])
    central_height = torch.minimum(height, (width / CROP_ASPECT[0]).round()).expand_as(area[:, :, :1])
    widths = torch.cat([(area * aspect).sqrt().round(), central_width], dim=-1)
    heights = torch.cat([(area / aspect).sqrt().round(), central_height], dim=-1)
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.byte().argmax(dim=-1, keepdim=True)  # (B, V, 1)
    crop = torch.cat([widths.gather(-1, first), heights.gather(-1, first)], dim=-1)  # (B, V, 2)
    room = torch.cat([width, height], dim=-1) - crop
    corner = torch.where(first == CROP_TRIES, (room / 2).floor(), (draws["place"] * (room + 1)).floor())
    return torch.cat([corner, corner + crop], dim=-1).long()


def crop_views(images: list[Image.Image], boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop, resize (bicubic, antialiased) and flip.

    Args:
        images (`list[Image.Image]`): B RGB images.
        boxes (`Tensor` of shape `(B, V, 4)`): from [`crop_boxes`].
        flips (`Tensor` of shape `(B, V)`): whether a view is mirrored.
        size (`int`): S, in pixels.

    Returns:
        `Tensor` of shape `(B, V, 3, S, S)`, uint8.
    """
    pixels = np.empty((*flips.shape, size, size, 3), dtype=np.uint8)
    for i, (image, image_boxes, image_flips) in enumerate(zip(images, boxes.tolist(), flips.tolist(), strict=True)):
        for v, (box, flip) in enumerate(zip(image_boxes, image_flips, strict=True)):
            view = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))
            pixels[i, v] = view[:, ::-1] if flip else view
    return torch.from_numpy(pixels).permute(0, 1, 4, 2, 3).contiguous()


def photometric_parameters(views: tuple[View, ...], draws: dict[str, Tensor]) -> Tensor:
    """The parameters that [`PhotometricTransform`] takes, from the draws.

    Returns:
        `Tensor` of shape `(B, V, 11)`: turns (4) and factors (4) of the jitter, grey or not, sigma of the blur in
        pixels or 0, solarized or not; fp32.
    """

    def of_views(values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[None]  # (1, V, ...)

    strengths = of_views([view.jitter for view in views])
    jittered = draws["jitter"] < of_views([view.jitter_probability for view in views])[:, :, None]
    turns = draws["turns"].argsort(dim=-1)
    identity = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    low = (identity - strengths).maximum(torch.tensor([0.0, 0.0, 0.0, -1.0], dtype=torch.float64))
    factors = low + (identity + strengths - low) * draws["factors"]
    factors = torch.where(jittered, factors, identity)
    of_gray, of_blur, of_sigma, of_solarize = draws["others"].unbind(dim=-1)  # (B, V) each
    sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * of_sigma
    sigma = sigma * (of_blur < of_views([view.blur_probability for view in views]))
    gray = of_gray < GRAYSCALE_PROBABILITY
    solarized = of_solarize < of_views([view.solarize_probability for view in views])
    return torch.cat([turns, factors, torch.stack([gray, sigma, solarized], dim=-1)], dim=-1).float()


class PhotometricTransform(nn.Module):
    """From 8-bit crops and their parameters to normalised views: jitter, grey, blur, solarize, normalise.

    Args:
        views (`tuple[View, ...]`): V recipes; what none of them does is left out.
        mean (`list[float]`): of each channel, as the encoder's image processor has it.
        std (`list[float]`): likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, views: tuple[View, ...], mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.blurs = any(view.blur_probability > 0 for view in views)
        self.solarizes = any(view.solarize_probability > 0 for view in views)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with normalised fp32 `pixel_values` (B, V, 3, S, S), and without `augmentation` (B, V, 11)."""
        crops = batch["pixel_values"]
        self.to(crops.device)
        values_at_once = CPU_VALUES_AT_ONCE if crops.device.type == "cpu" else DEVICE_VALUES_AT_ONCE
        images_at_once = max(1, values_at_once // crops[0, 0].numel())
        parts = zip(
            crops.flatten(0, 1).split(images_at_once),
            batch["augmentation"].flatten(0, 1).split(images_at_once),
            strict=True,
        )
        views = torch.cat([self._transform(*part) for part in parts]).view(crops.shape)
        rest = {name: tensor for name, tensor in batch.items() if name != "augmentation"}
        return {**rest, "pixel_values": views}

    def _transform(self, crops: Tensor, parameters: Tensor) -> Tensor:
        """Some of the crops (N, 3, S, S), with their parameters (N, 11)."""
        turns, factors, of_gray, sigma, of_solarize = parameters.split([4, 4, 1, 1, 1], dim=1)
        # bf16 has the 8 bits of the pixels and none to compute with
        with torch.autocast(crops.device.type, enabled=False):
            images = color_jitter(crops.float() / 255, factors, turns)
            images = grayscale(images, of_gray[:, 0] > 0)
            images = gaussian_blur(images, sigma[:, 0]) if self.blurs else images
            images = solarize(images, of_solarize[:, 0] > 0) if self.solarizes else images
            return (images - self.mean) / self.std

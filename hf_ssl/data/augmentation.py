"""The random views of an image: what each preset draws.

All that is random of a view is drawn, from its item's generator, before anything is computed: so a view is known by
(seed, epoch, index), wherever and in whatever batch it is made. The geometric part (crop, resize, flip) is done image
by image in the workers and leaves 8-bit pixels, see [`hf_ssl.data.cropping`]. The photometric part (jitter, grey,
blur, solarize, normalisation) is batched, on the device or in the workers, and gives the same views in both places,
see [`hf_ssl.data.photometric_transform`].
"""

# B images, V views, K draws

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_ssl.errors import unknown_name

CROP_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Square:
    """A square at a random place, instead of a crop of random area and aspect ratio.

    Args:
        side (`float`): of the square, as a share of the image's shorter side.
        padding (`float`): width of the black border that the image gets first, likewise a share of its shorter side.
    """

    side: float
    padding: float = 0.0


@dataclass(frozen=True, kw_only=True)
class View:
    """How one view is drawn; by default a crop of random area, mirrored or not, with its colours as they are.

    Args:
        crop_area (`tuple[float, float]`): range of the crop's share of the image.
        square ([`Square`], *optional*): what is cropped instead.
        flip_probability (`float`): of being mirrored, left to right.
        jitter (`tuple[float, float, float, float]`): strengths of brightness, contrast and saturation, whose factors
            are uniform in [max(0, 1 - s), 1 + s], and of hue, which is uniform in [-s, s] of the circle.
        jitter_probability (`float`): of the colour jitter as a whole.
        gray_probability (`float`): of losing the colours.
        blur_probability (`float`): of the Gaussian blur.
        solarize_probability (`float`): of the inversion of bright pixels.
        is_local (`bool`): whether it is a small view beside the global ones (multi-crop), with a size of its own.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    square: Square | None = None
    flip_probability: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: float = 0.0
    gray_probability: float = 0.0
    blur_probability: float = 0.0
    solarize_probability: float = 0.0
    is_local: bool = False

    @property
    def is_photometric(self) -> bool:
        """Whether it ever changes colours or sharpness."""
        return any((self.jitter_probability, self.gray_probability, self.blur_probability, self.solarize_probability))


_SIMCLR = View(jitter=(0.8, 0.8, 0.8, 0.2), jitter_probability=0.8, gray_probability=0.2, blur_probability=0.5)
_SIMCLR_SMALL = replace(_SIMCLR, jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0.0)
_MOCO_V1 = View(crop_area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, gray_probability=0.2)
_MOCO_V2 = replace(_SIMCLR, crop_area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))
_BYOL_FIRST = replace(_SIMCLR, jitter=(0.4, 0.4, 0.2, 0.1), blur_probability=1.0)
_BYOL_SECOND = replace(_BYOL_FIRST, blur_probability=0.1, solarize_probability=0.2)
_BYOL_SMALL_FIRST = replace(_BYOL_FIRST, blur_probability=0.0)
_BYOL_SMALL_SECOND = replace(_BYOL_SECOND, blur_probability=0.0)
_SWAV_GLOBAL = replace(_SIMCLR, crop_area=(0.14, 1.0))
_SWAV_LOCAL = replace(_SIMCLR, crop_area=(0.05, 0.14), is_local=True)
_SWAV_SMALL_GLOBAL = replace(_SIMCLR_SMALL, crop_area=(0.2, 1.0))
_SWAV_SMALL_LOCAL = replace(_SIMCLR_SMALL, crop_area=(0.08, 0.5), is_local=True)
_DINO_FIRST = replace(_BYOL_FIRST, crop_area=(0.4, 1.0))
_DINO_SECOND = replace(_BYOL_SECOND, crop_area=(0.4, 1.0))
_DINO_LOCAL = replace(_BYOL_FIRST, crop_area=(0.05, 0.4), blur_probability=0.5, is_local=True)
_DINO_SMALL_FIRST, _DINO_SMALL_SECOND, _DINO_SMALL_LOCAL = (
    replace(view, blur_probability=0.0) for view in (_DINO_FIRST, _DINO_SECOND, _DINO_LOCAL)
)
_IBOT_FIRST, _IBOT_SECOND = (replace(view, crop_area=(0.25, 1.0)) for view in (_DINO_FIRST, _DINO_SECOND))
_IBOT_LOCAL = replace(_DINO_LOCAL, crop_area=(0.05, 0.25))

AUGMENTATIONS: dict[str, tuple[View, ...]] = {
    "simclr": (_SIMCLR, _SIMCLR),  # Chen et al. 2020, appendix A, ImageNet
    "simclr_small": (_SIMCLR_SMALL, _SIMCLR_SMALL),  # the same, appendix B.9, CIFAR-10: half the jitter, no blur
    "moco_v1": (_MOCO_V1, _MOCO_V1),  # He et al. 2020, section 3.3; the authors' code turns grey before the jitter
    "moco_v2": (_MOCO_V2, _MOCO_V2),  # Chen et al. 2020, arXiv:2003.04297; also SimSiam
    "byol": (_BYOL_FIRST, _BYOL_SECOND),  # Grill et al. 2020, appendix B; also Barlow Twins, VICReg, MoCo v3
    "byol_small": (_BYOL_SMALL_FIRST, _BYOL_SMALL_SECOND),  # solo-learn's for CIFAR: no blur
    "swav": (_SWAV_GLOBAL,) * 2 + (_SWAV_LOCAL,) * 6,  # Caron et al. 2020, the authors' scripts; DeepCluster-v2
    "swav_small": (_SWAV_SMALL_GLOBAL,) * 2 + (_SWAV_SMALL_LOCAL,) * 4,  # areas of solo-learn's multi-crop for CIFAR
    "dino": (_DINO_FIRST, _DINO_SECOND) + (_DINO_LOCAL,) * 8,  # Caron et al. 2021, the authors' main_dino.py
    "dino_small": (_DINO_SMALL_FIRST, _DINO_SMALL_SECOND) + (_DINO_SMALL_LOCAL,) * 4,  # without blur
    "ibot": (_IBOT_FIRST, _IBOT_SECOND) + (_IBOT_LOCAL,) * 10,  # Zhou et al. 2022, the authors' README
    "crop_flip": (View(crop_area=(0.2, 1.0)),),  # MAE: He et al. 2022, appendix A.1
    "simmim": (View(crop_area=(0.67, 1.0)),),  # Xie et al. 2022, section 4.1.2
    "beit": (View(jitter=(0.4, 0.4, 0.4, 0.0), jitter_probability=1.0),),  # Bao et al. 2022; theirs jitter, then crop
    "crop": (View(crop_area=(0.3, 1.0), flip_probability=0.0),),  # I-JEPA: Assran et al. 2023, the authors' configs
    "deepcluster": (View(),),  # Caron et al. 2018; also rotation prediction on ImageNet
    "random_crop": (View(),),  # Szegedy et al. 2015, section 6, with a mirror image: supervised training on ImageNet
    "rotnet": (View(square=Square(side=1.0, padding=1 / 8)),),  # Gidaris et al. 2018, CIFAR-10: 4 pixels of 32
    "whole": (View(square=Square(side=255 / 292)),),  # for context prediction and jigsaw, which cut patches of it
}
"""The views of each preset, global ones first. Those called small are for images of about 32 pixels, their local views
for about 16 (`data.local_image_size`). All crops are resized bicubically; SwAV's, MoCo's and I-JEPA's authors resize
bilinearly."""

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

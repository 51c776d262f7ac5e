"""Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle of an image is replaced by noise."""

# C channels, H × W pixels

import math

import numpy as np
import torch
from torch import Tensor

AREAS = (0.02, 1 / 3)
ASPECT_RATIOS = (0.3, 1 / 0.3)
TRIES = 10


def erase(image: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """The image, with the given probability without a rectangle: each of its pixels is standard normal noise.

    Area and aspect ratio (uniform in its logarithm) as timm has them, which MAE and BEiT use (`remode="pixel"`).

    Args:
        image (`Tensor`): (C, H, W), normalised.
        probability (`float`): in [0, 1].
        rng (`np.random.Generator`): of the image.
    """
    if rng.random() >= probability:
        return image
    height, width = image.shape[1:]
    for _ in range(TRIES):
        area = rng.uniform(*AREAS) * height * width
        ratio = math.exp(rng.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            erased = image.clone()
            noise = rng.standard_normal((len(image), rows, columns), dtype=np.float32)
            erased[:, top : top + rows, left : left + columns] = torch.from_numpy(noise)
            return erased
    return image

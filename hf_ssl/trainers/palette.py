"""The palette of an objective that reads images as colours: k-means over pixels, before the training."""

# N pixels, C colours

import json
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from PIL import Image
from torch import Tensor
from transformers import ImageGPTImageProcessorPil

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import writing
from hf_ssl.trainers.kmeans import fit
from hf_ssl.trainers.shards import require_same, write_whole

logger = logging.getLogger(__name__)

REPORT_FILE = "palette.json"
"""Written last: what the palette was made of, and its error."""

MADE_OF = ("path", "name", "train_split", "max_train_items", "image_column", "image_size", "num_colours")
"""The settings of the `data` section that a palette depends on."""

MAX_IMAGES = 2048
PIXELS_AN_IMAGE = 256
"""What the colours are found on: pixels drawn from images drawn from the training split, half a million at most."""


def find_palette(data: ImageDataArguments, folder: Path, *, seed: int) -> Path:
    """Find the colours of the training images by k-means; a palette that is complete already stays as it is.

    As iGPT does with 512 clusters of RGB values (Chen et al. 2020, section 3.2). Leaves in `folder` an image processor
    that has the colours, which transformers loads (`preprocessor_config.json`), and `palette.json`.

    Args:
        data ([`ImageDataArguments`]): the images, and `num_colours`.
        folder (`Path`): to write.
        seed (`int`): of the pixels drawn and of the k-means.

    Returns:
        `Path`: `folder`.

    Raises:
        InputError: for images that cannot be used or have too few colours, or if `folder` holds another palette.
    """
    identity = {**{name: getattr(data, name) for name in MADE_OF}, "seed": seed}
    report = folder / REPORT_FILE
    if report.is_file():
        require_same(json.loads(report.read_text(encoding="utf-8"))["identity"], identity, folder)
        return folder
    pixels = draw_pixels(data, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = fit([pixels], data.num_colours, seed=seed, device=device, num_tries=1)
    logger.info("%d colours found; mean squared distance of a pixel %.3g.", data.num_colours, found.inertia[-1])
    size = {"height": data.image_size, "width": data.image_size}
    with writing(folder):
        ImageGPTImageProcessorPil(clusters=found.centroids.tolist(), size=size).save_pretrained(folder)
    made: dict[str, Any] = {"identity": identity, "num_pixels": found.num_frames, "inertia_of_passes": found.inertia}
    write_whole(report, lambda staged: staged.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8"))
    return folder


def draw_pixels(data: ImageDataArguments, seed: int) -> Tensor:
    """Pixels (N, 3), in [-1, 1], of training images at the size that the encoder sees; of a stream, of the first.

    Raises:
        InputError: for images that cannot be used.
    """
    generator = item_generator(seed, 0, 0)
    train, _, _ = load_usable(data, "vision", seed)
    if not isinstance(train, IterableDataset):
        train = train.select(torch.randperm(len(train), generator=generator)[:MAX_IMAGES].tolist())
    size = (data.image_size, data.image_size)
    drawn = []
    for row in islice(train, MAX_IMAGES):
        image = decode_image(row["image"]).resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(image).reshape(-1, 3).copy())
        drawn.append(pixels[torch.randperm(len(pixels), generator=generator)[:PIXELS_AN_IMAGE]])
    return torch.cat(drawn).float() / 127.5 - 1

"""The image tokenizer of an objective that is given none: k-means over patches, before the training."""

# N patches of p x p pixels

import json
import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from PIL import Image
from torch import Tensor

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError, writing
from hf_ssl.modeling.blocks.patches import patchify
from hf_ssl.modeling.vision.patch_codebook import PatchCodebook, PatchCodebookConfig
from hf_ssl.trainers.kmeans import fit
from hf_ssl.trainers.shards import require_same, write_whole

logger = logging.getLogger(__name__)

REPORT_FILE = "codebook.json"
"""Written last: what the codebook was made of, and its error."""

MADE_OF = ("path", "name", "train_split", "max_train_items", "image_column", "image_size")
"""The settings of the `data` section that a codebook depends on."""

MAX_IMAGES = 8192
PATCHES_AN_IMAGE = 32
"""What the patches are found on: some of each of as many images, drawn from the training split; a quarter of a million
at most."""


def find_patch_codebook(
    data: ImageDataArguments, values: Mapping[str, Any], encoder_patch: int, folder: Path, *, seed: int
) -> Path:
    """Find patches that stand for all patches of the training images, by k-means; a complete codebook is kept.

    Args:
        data ([`ImageDataArguments`]): the images.
        values (`Mapping[str, Any]`): fields of [`PatchCodebookConfig`]; by default its patches are the encoder's.
        encoder_patch (`int`): side of the encoder's patches in pixels, at `data.image_size`.
        folder (`Path`): to write: a [`PatchCodebook`], and `codebook.json`.
        seed (`int`): of the patches drawn and of the k-means.

    Returns:
        `Path`: `folder`.

    Raises:
        InputError: for images that cannot be used or have too few patches, another tokenizer than a codebook of
            patches, or if `folder` holds another one.
    """
    fields = {name: value for name, value in values.items() if name != "model_type"}
    if values.get("model_type", PatchCodebookConfig.model_type) != PatchCodebookConfig.model_type:
        raise InputError(
            f"A tokenizer {values['model_type']} is not made from images here; name one that is trained in "
            "model.tokenizer, or leave model.tokenizer_config.model_type out."
        )
    config = PatchCodebookConfig(**{"patch_size": encoder_patch, **fields})
    sizes = {"patch_size": config.patch_size, "num_embeddings": config.num_embeddings}
    identity = {**{name: getattr(data, name) for name in MADE_OF}, **sizes, "seed": seed}
    report = folder / REPORT_FILE
    if report.is_file():
        require_same(json.loads(report.read_text(encoding="utf-8"))["identity"], identity, folder)
        return folder
    patches = draw_patches(data, data.image_size // encoder_patch, config.patch_size, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = fit([patches], config.num_embeddings, seed=seed, device=device, num_tries=1)
    logger.info("%d patches found; mean squared distance %.3g.", config.num_embeddings, found.inertia[-1])
    tokenizer = PatchCodebook(config)
    with torch.no_grad():
        tokenizer.codebook.copy_(found.centroids)
    with writing(folder):
        tokenizer.save_pretrained(folder)
    made: dict[str, Any] = {"identity": identity, "num_patches": len(patches), "inertia_of_passes": found.inertia}
    write_whole(report, lambda staged: staged.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8"))
    return folder


def draw_patches(data: ImageDataArguments, rows: int, patch_size: int, seed: int) -> Tensor:
    """Patches (N, p·p·3) of training images of `rows` x `rows` patches, in [-1, 1]; of a stream, of the first images.

    Raises:
        InputError: for images that cannot be used.
    """
    generator = item_generator(seed, 0, 0)
    train, _, _ = load_usable(data, "vision", seed)
    if not isinstance(train, IterableDataset):
        train = train.select(torch.randperm(len(train), generator=generator)[:MAX_IMAGES].tolist())
    size = (rows * patch_size, rows * patch_size)
    drawn = []
    for row in islice(train, MAX_IMAGES):
        image = decode_image(row["image"]).resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        patches = patchify(pixels, (rows, rows))[0]
        drawn.append(patches[torch.randperm(len(patches), generator=generator)[:PATCHES_AN_IMAGE]])
    return torch.cat(drawn).float() / 127.5 - 1

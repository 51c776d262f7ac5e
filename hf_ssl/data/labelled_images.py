"""The training batches of an image classifier: crops, erased rectangles, and how the images are mixed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import ImageProcessingMixin

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.augmentation import AUGMENTATIONS
from hf_ssl.data.image_mixing import ImageMixing
from hf_ssl.data.images import ViewCollator, photometric_transform
from hf_ssl.data.prepared import Batch
from hf_ssl.data.random_erasing import erase
from hf_ssl.errors import InputError, unknown_name


@dataclass(kw_only=True)
class LabelledImageCollator:
    """What is random of the training batches of a classifier; what an image gets is known by (seed, epoch, index).

    Called with a list of rows with their `key`, gives `pixel_values` (B, C, H, W), `labels` (B,) and, if images are
    mixed, what [`hf_ssl.data.image_mixing.mix_images`] takes on the device: `mixing_weights` (B,) and `mixing_boxes`
    (B, 4). Picklable.

    Args:
        images (`Callable`): makes `pixel_values` of rows.
        seed (`int`): of the run.
        erasing (`float`): see [`erase`].
        mixing ([`ImageMixing`], *optional*): how images are mixed.
    """

    images: Callable[[list[dict[str, Any]]], Batch]
    seed: int
    erasing: float = 0.0
    mixing: ImageMixing | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:  # noqa: D102 - described by the class
        batch = {**self.images(examples), "labels": torch.tensor([example["label"] for example in examples])}
        generators = [np.random.default_rng((self.seed, *example["key"])) for example in examples]
        if self.erasing > 0:
            images = zip(batch["pixel_values"], generators, strict=True)
            batch["pixel_values"] = torch.stack([erase(image, self.erasing, rng) for image, rng in images])
        if self.mixing is not None:
            height, width = batch["pixel_values"].shape[2:]
            weights, boxes = zip(*(self.mixing.draw((height, width), rng) for rng in generators), strict=True)
            batch |= {"mixing_weights": torch.tensor(weights), "mixing_boxes": torch.tensor(boxes)}
        return batch


def is_augmented(data: ImageDataArguments) -> bool:
    """Whether anything of the training's images is random."""
    return data.labelled_augmentation is not None or data.random_erasing > 0 or is_mixed(data)


def is_mixed(data: ImageDataArguments) -> bool:
    """Whether images are mixed."""
    return data.mixup > 0 or data.cutmix > 0


def augmented(
    inputs: Callable[[list[dict[str, Any]]], Batch],
    seed: int,
    *,
    data: ImageDataArguments,
    processor: ImageProcessingMixin,
) -> LabelledImageCollator:
    """The training's collator, of the one of evaluation.

    Args:
        inputs (`Callable`): makes the batches of evaluation.
        seed (`int`): of the run.
        data ([`ImageDataArguments`]): the `data` section.
        processor (`ImageProcessingMixin`): of the encoder, whose size and normalisation the images have in any case.

    Raises:
        InputError: for a preset that does not give one view, or an encoder whose images are not square.
    """
    mixing = ImageMixing(
        mixup=data.mixup, cutmix=data.cutmix, probability=data.mixing_probability, cutmix_share=data.cutmix_share
    )
    return LabelledImageCollator(
        images=inputs if data.labelled_augmentation is None else _views(data.labelled_augmentation, processor, seed),
        seed=seed,
        erasing=data.random_erasing,
        mixing=mixing if is_mixed(data) else None,
    )


def _views(name: str, processor: ImageProcessingMixin, seed: int) -> ViewCollator:
    """One view of each image, of the size and normalisation that the encoder's preprocessor gives."""
    single = {preset: views for preset, views in AUGMENTATIONS.items() if len(views) == 1}
    if name not in single:
        raise unknown_name("augmentation of one view (data.labelled_augmentation)", name, single)
    height, width = processor(images=Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"].shape[-2:]
    if height != width:
        raise InputError(
            f"data.labelled_augmentation={name} makes squares, and the encoder's preprocessor images of {height} × "
            f"{width} pixels; leave it out."
        )
    transform = photometric_transform(single[name], processor)
    return ViewCollator(views=single[name], image_size=height, seed=seed, transform=transform)

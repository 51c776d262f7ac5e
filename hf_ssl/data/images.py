"""Images to what a vision objective is trained on: views of them, drawn anew in every epoch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import IterableDataset
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ViTImageProcessorPil
from transformers.image_processing_base import ImageProcessingMixin

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.augmentation import (
    FLIP_PROBABILITY,
    PhotometricTransform,
    View,
    augmentation,
    crop_boxes,
    crop_views,
    draw_views,
    photometric_parameters,
)
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.data.prepared import Batch, PreparedData
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError


def prepare_images(args: ImageDataArguments, *, seed: int, encoder: str | None) -> PreparedData:
    """Load images and choose how views are made of them.

    Args:
        args ([`ImageDataArguments`]): the `data` section.
        seed (`int`): of the run.
        encoder (`str`, *optional*): the encoder that the run starts from, whose image processor gives the mean and the
            standard deviation; without it they are 0.5.

    Returns:
        [`PreparedData`]: batches with `pixel_values` (B, V, 3, S, S): fp32 and normalised once `batch_transform`, if
        there is one, has run.

    Raises:
        InputError: for images, an image processor or a preset that cannot be used.
    """
    views = augmentation(args.augmentation)
    processor = image_processor(args.image_size, encoder)
    if encoder is not None:
        check_image_size(args.image_size, encoder)
    transform = photometric_transform(views, processor)
    on_device = args.augment_on == "device"
    train, validation, num_skipped = load_usable(args, "vision", seed)
    return PreparedData(
        train=KeyedIterableDataset(train) if isinstance(train, IterableDataset) else KeyedDataset(train),
        validation=None if validation is None else KeyedDataset(validation),
        collator=ViewCollator(
            views=views, image_size=args.image_size, seed=seed, transform=None if on_device else transform
        ),
        processor=processor,
        config_updates={} if encoder else {"encoder_config": {"image_size": args.image_size}},
        batch_transform=transform if on_device else None,
        num_skipped=num_skipped,
    )


def image_processor(image_size: int, encoder: str | None) -> ImageProcessingMixin:
    """The preprocessor saved beside the encoder: its own, or one that resizes to `image_size` and scales to [-1, 1].

    Raises:
        InputError: when the encoder to start from has none.
    """
    if encoder is None:
        size = {"height": image_size, "width": image_size}
        return ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    try:
        # Pillow's resizing is the same everywhere; the default depends on whether torchvision is installed.
        return AutoImageProcessor.from_pretrained(encoder, backend="pil")
    except (OSError, ValueError) as error:
        raise InputError(
            f"The encoder {encoder} has no image processor ({str(error).splitlines()[0]}); start from an encoder that "
            "has a preprocessor_config.json."
        ) from error


def check_image_size(image_size: int, encoder: str) -> None:
    """Show an encoder, without its weights, an image of that size: some take one size only.

    Raises:
        InputError: when it refuses.
    """
    config = AutoConfig.from_pretrained(encoder)
    with torch.device("meta"):
        model = AutoModel.from_config(config).eval()
        try:
            model(pixel_values=torch.zeros(1, config.num_channels, image_size, image_size))
        except ValueError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"The encoder {encoder} does not take data.image_size={image_size} ({reason}); choose the size that "
                "it takes."
            ) from error


def photometric_transform(views: tuple[View, ...], processor: ImageProcessingMixin) -> PhotometricTransform:
    """The photometric part of `views`, normalising as `processor` does."""
    if not processor.do_normalize:
        return PhotometricTransform(views, mean=[0.0] * 3, std=[1.0] * 3)
    return PhotometricTransform(views, mean=list(processor.image_mean), std=list(processor.image_std))


@dataclass(kw_only=True)
class ViewCollator:
    """Decodes images and makes random views of them; the views of an item are known by its key. Picklable.

    Args:
        views (`tuple[View, ...]`): V recipes.
        image_size (`int`): S, side of a view in pixels.
        seed (`int`): of the run.
        transform ([`PhotometricTransform`], *optional*): the photometric part, if it is done here; otherwise the batch
            has 8-bit
            `pixel_values` (B, V, 3, S, S) and their `augmentation` (B, V, 11), for the transform to run on the device.
        draw (`Callable`, *optional*): see [`Collator`].
    """

    views: tuple[View, ...]
    image_size: int
    seed: int
    transform: PhotometricTransform | None = None
    draw: Callable[[Batch, list[torch.Generator]], Batch] | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:
        """B items, each with its `image` and its `key`, to views of them."""
        generators = [item_generator(self.seed, *example["key"]) for example in examples]
        images = [decode_image(example["image"]) for example in examples]
        draws = draw_views(len(self.views), generators)
        boxes = crop_boxes(self.views, draws, [image.size for image in images])
        flips = draws["flip"][..., 0] < FLIP_PROBABILITY
        batch = {
            "pixel_values": crop_views(images, boxes, flips, self.image_size),
            "augmentation": photometric_parameters(self.views, draws),
        }
        if self.transform is not None:
            batch = self.transform(batch)
        return batch if self.draw is None else self.draw(batch, generators)

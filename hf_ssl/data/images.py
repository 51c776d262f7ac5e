"""Images to what a vision objective is trained on: views of them, drawn anew in every epoch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import IterableDataset
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ViTImageProcessorPil
from transformers.image_processing_base import ImageProcessingMixin

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.augmentation import View, augmentation, draw_views
from hf_ssl.data.cropping import crop_boxes, crop_views
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.data.photometric_transform import PhotometricTransform, photometric_parameters
from hf_ssl.data.prepared import Batch, PreparedData
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError


def prepare_images(
    args: ImageDataArguments, *, seed: int, encoder: str | None, with_indices: bool = False
) -> PreparedData:
    """Load images and choose how views are made of them.

    Args:
        args ([`ImageDataArguments`]): the `data` section.
        seed (`int`): of the run.
        encoder (`str`, *optional*): the encoder that the run starts from, whose image processor gives the mean and the
            standard deviation; without it they are 0.5.
        with_indices (`bool`): whether the objective keeps something of each training item: batches then have
            `item_indices`, and the config gets the number of items, `num_items`.

    Returns:
        [`PreparedData`]: batches with `pixel_values` (B, V, 3, S, S), or (B, 3, S, S) of a preset of one view, and
        with local views `local_pixel_values` (B, L, 3, s, s): fp32 and normalised once `batch_transform`, if there is
        one, has run.

    Raises:
        InputError: for images, an image processor or a preset that cannot be used, or a stream, which is not
            numbered, `with_indices`.
    """
    views = augmentation(args.augmentation)
    check_local_image_size(args, views)
    if with_indices and args.streaming:
        raise InputError(
            "data.streaming is true, but this objective keeps a cluster of each training item, and those of a stream "
            "have no numbers; set data.streaming=false."
        )
    processor = image_processor(args.image_size, encoder)
    if encoder is not None:
        check_image_size(args.image_size, encoder)
    transform = photometric_transform(views, processor)
    on_device = args.augment_on == "device"
    train, validation, num_skipped = load_usable(args, "vision", seed)
    config_updates: dict[str, Any] = {} if encoder else {"encoder_config": {"image_size": args.image_size}}
    if with_indices:
        config_updates["num_items"] = len(train)
    return PreparedData(
        train=KeyedIterableDataset(train) if isinstance(train, IterableDataset) else KeyedDataset(train),
        validation=None if validation is None else KeyedDataset(validation),
        collator=ViewCollator(
            views=views,
            image_size=args.image_size,
            local_image_size=args.local_image_size,
            seed=seed,
            transform=None if on_device else transform,
            with_indices=with_indices,
        ),
        processor=processor,
        config_updates=config_updates,
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


def check_local_image_size(args: ImageDataArguments, views: tuple[View, ...]) -> None:
    """Raise `InputError` when local views are larger than the global ones."""
    if any(view.is_local for view in views) and args.local_image_size > args.image_size:
        raise InputError(
            f"data.local_image_size is {args.local_image_size}, more than data.image_size={args.image_size}; give the "
            f"local views of {args.augmentation} a smaller size, about {max(1, args.image_size // 2)}."
        )


def photometric_transform(views: tuple[View, ...], processor: ImageProcessingMixin) -> PhotometricTransform:
    """The photometric part of `views`, normalising as `processor` does."""
    mean, std = normalisation(processor)
    return PhotometricTransform(views, mean=mean, std=std)


def normalisation(processor: ImageProcessingMixin) -> tuple[list[float], list[float]]:
    """What an image processor subtracts from the channels of an image in [0, 1], and what it then divides by."""
    if not processor.do_normalize:
        return [0.0] * 3, [1.0] * 3
    return list(processor.image_mean), list(processor.image_std)


@dataclass(kw_only=True)
class ViewCollator:
    """Decodes images and makes random views of them; the views of an item are known by its key. Picklable.

    Args:
        views (`tuple[View, ...]`): V global recipes, and L local ones.
        image_size (`int`): S, side of a global view in pixels.
        local_image_size (`int`): s, side of a local one.
        seed (`int`): of the run.
        transform ([`PhotometricTransform`], *optional*): the photometric part, if it is done here; otherwise the batch
            has 8-bit views and, unless they are only to be normalised, their parameters, as that transform takes them,
            which is then to run on the device.
        draw (`Callable`, *optional*): see [`Collator`].
        with_indices (`bool`): adds `item_indices` (B,), int64: the number of each item in its data set, which for
            validation items is another one than for training items.
    """

    views: tuple[View, ...]
    image_size: int
    local_image_size: int = 96
    seed: int
    transform: Callable[[Batch], Batch] | None = None
    draw: Callable[[Batch, list[torch.Generator]], Batch] | None = None
    with_indices: bool = False

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:
        """B items, each with its `image` and its `key`, to views of them."""
        generators = [item_generator(self.seed, *example["key"]) for example in examples]
        images = [decode_image(example["image"]) for example in examples]
        batch = self._views(images, draw_views(len(self.views), generators))
        if self.with_indices:
            batch["item_indices"] = torch.tensor([example["key"].index for example in examples])
        if self.transform is not None:
            batch = self.transform(batch)
        return batch if self.draw is None else self.draw(batch, generators)

    def _views(self, images: list[Image.Image], draws: dict[str, Tensor]) -> Batch:
        """Global and local views, 8-bit, with the parameters of what is still to be done to them."""
        is_local = torch.tensor([view.is_local for view in self.views])
        boxes = crop_boxes(self.views, draws, [image.size for image in images])
        flips = draws["flip"][..., 0] < torch.tensor([view.flip_probability for view in self.views])
        parameters = photometric_parameters(self.views, draws)
        batch = {}
        for prefix, which, size in (("", ~is_local, self.image_size), ("local_", is_local, self.local_image_size)):
            if which.any():
                crops = crop_views(images, boxes[:, which], flips[:, which], size)
                batch[f"{prefix}pixel_values"] = crops if len(self.views) > 1 else crops[:, 0]
                if any(view.is_photometric for view in self.views):
                    batch[f"{prefix}augmentation"] = parameters[:, which]
        return batch

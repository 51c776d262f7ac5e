"""Images as sequences of colours: of each pixel the nearest of a palette, row after row (iGPT, section 3.2)."""

# B images, S x S pixels, T = S² pixels in raster order, C colours

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import AutoImageProcessor, ImageGPTImageProcessorPil

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.augmentation import augmentation
from hf_ssl.data.images import ViewCollator, photometric_transform, prepare_images
from hf_ssl.data.photometric_transform import PhotometricTransform
from hf_ssl.data.prepared import Batch, PreparedData
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.codebook import nearest_codewords


def prepare_colours(args: ImageDataArguments, *, seed: int, encoder: str | None) -> PreparedData:
    """Load images and choose how one view of each becomes a sequence of colours.

    The palette stands to the encoder as a vocabulary does to one of text: it belongs to the image processor, that of
    `args.palette` or of the encoder to start from, and is saved with it.

    Args:
        args ([`ImageDataArguments`]): the `data` section.
        seed (`int`): of the run.
        encoder (`str`, *optional*): the encoder that the run starts from.

    Returns:
        [`PreparedData`]: batches with `input_ids` (B, T).

    Raises:
        InputError: for images, a palette or a preset that cannot be used.
    """
    views = augmentation(args.augmentation)
    if len(views) > 1:
        raise InputError(
            f"data.augmentation={args.augmentation} makes {len(views)} views, but an image is read as one sequence of "
            "colours; choose a preset of one view: crop, crop_flip or simmim."
        )
    processor = palette_processor(args, encoder)
    data = prepare_images(replace(args, augment_on="worker"), seed=seed, encoder=None)
    palette = torch.as_tensor(processor.clusters, dtype=torch.float32)
    assert isinstance(data.collator, ViewCollator)
    data.collator.transform = ColourTokens(photometric_transform(views, processor), palette)
    sizes = {"vocab_size": len(palette) + 1, "n_positions": args.image_size**2}
    updates = {} if encoder else {"encoder_config": sizes}
    return replace(data, processor=processor, config_updates=updates)


def palette_processor(args: ImageDataArguments, encoder: str | None) -> ImageGPTImageProcessorPil:
    """The image processor that has the palette of a run, for images of `args.image_size`.

    Args:
        args ([`ImageDataArguments`]): the `data` section; `palette` is the folder or Hub name of an image processor.
        encoder (`str`, *optional*): the encoder that the run starts from, which brings its own.

    Raises:
        InputError: for both of them or neither, or one without a palette.
    """
    named = [name for name in (args.palette, encoder) if name is not None]
    if len(named) != 1:
        reason = f"The encoder {encoder} knows the colours of its own palette" if named else "The run has no palette"
        advice = "leave data.palette out" if named else "set data.palette to a folder with an image processor"
        raise InputError(f"{reason}; {advice}.")
    try:
        processor = AutoImageProcessor.from_pretrained(named[0], backend="pil")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{named[0]} has no image processor ({str(error).splitlines()[0]}); give a folder that has a "
            "preprocessor_config.json."
        ) from error
    if not isinstance(processor, ImageGPTImageProcessorPil) or processor.clusters is None:
        raise InputError(f"The image processor {named[0]} has no palette; give one of an ImageGPT.")
    processor.size = type(processor.size)(height=args.image_size, width=args.image_size)
    return processor


@dataclass(frozen=True)
class ColourTokens:
    """From 8-bit views to the numbers of their colours. Picklable.

    Args:
        transform ([`PhotometricTransform`]): to pixels as the palette has them.
        palette (`Tensor` of shape `(C, 3)`): colours, normalised as pixels are.
    """

    transform: PhotometricTransform
    palette: Tensor

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `input_ids` (B, T) in place of `pixel_values` (B, 3, S, S), on the CPU."""
        batch = self.transform(batch)
        pixels = batch.pop("pixel_values").permute(0, 2, 3, 1)  # (B, S, S, 3)
        numbers = nearest_codewords(pixels.reshape(-1, 3), self.palette)
        return {**batch, "input_ids": numbers.view(len(pixels), -1)}

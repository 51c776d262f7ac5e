"""The colours of pixels that an image processor has normalised."""

# N images or whatever, C = 3 channels

from torch import Tensor

from hf_ssl.errors import InputError

CHANNELS = 3


def check_pixel_scale(pixel_mean: list[float], pixel_scale: list[float]) -> None:
    """Raise `InputError` unless there are three numbers each, and the scales are above 0."""
    if len(pixel_mean) != CHANNELS or len(pixel_scale) != CHANNELS or min(pixel_scale) <= 0:
        raise InputError(
            f"pixel_mean is {pixel_mean} and pixel_scale {pixel_scale}; give three numbers each, image_mean and "
            "image_std of the image processor, the second ones above 0."
        )


def colours_of(normalised: Tensor, pixel_mean: list[float], pixel_scale: list[float]) -> Tensor:
    """The colours in [0, 1] of normalised pixels.

    Args:
        normalised (`Tensor` of shape `(N, 3, ...)`): `(colour - mean) / scale` of each channel, fp32.
        pixel_mean (`list[float]`): of each channel.
        pixel_scale (`list[float]`): of each channel.

    Returns:
        `Tensor` of the same shape.
    """
    shape = (CHANNELS, *[1] * (normalised.dim() - 2))
    return normalised * normalised.new_tensor(pixel_scale).view(shape) + normalised.new_tensor(pixel_mean).view(shape)

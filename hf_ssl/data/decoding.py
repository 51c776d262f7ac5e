"""From the bytes of a file to what a preprocessor takes: RGB images and mono waveforms."""

import io
import logging
import struct
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import soundfile
import soxr
from PIL import Image, ImageOps

from hf_ssl.errors import InputError

logger = logging.getLogger(__name__)

# What Pillow's decoders raise for damaged files of one format or another.
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode_image(item: dict[str, Any]) -> Image.Image:
    """Decodes an image of any kind to RGB.

    Greyscale, palette, CMYK and 16-bit greyscale images are converted, transparency is composited on white, the
    orientation written by a camera (EXIF) is applied, and of an animation the first frame is taken.

    Args:
        item (`dict`): `bytes` of the file, or `None` and the `path` of the file, as in a column of `datasets`.

    Returns:
        `PIL.Image.Image`: mode `RGB`, at least 1 x 1 pixel.

    Raises:
        InputError: for a file that is missing, empty, truncated or no image.
    """
    content = _content(item)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{file_name(item)} is not an image that can be read; remove or replace the file.") from error
    except _IMAGE_ERRORS as error:
        raise InputError(f"{file_name(item)} is a damaged image ({error}); remove or replace the file.") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode in _SIXTEEN_BIT_MODES:  # convert() would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def decode_audio(item: dict[str, Any], sampling_rate: int) -> np.ndarray:
    """Decodes a recording to the given sampling rate; its channels are averaged.

    Args:
        item (`dict`): `bytes` of the file (WAV, FLAC, OGG, MP3, …), or `None` and the `path` of the file.
        sampling_rate (`int`): Hz; recordings at another rate are resampled, which is logged once for each rate.

    Returns:
        `np.ndarray`: (S,) float32, in [-1, 1] for files with integer samples.

    Raises:
        InputError: for a file that is missing, empty, unreadable, without samples, or that holds NaN or infinity.
    """
    waveform, rate = read_audio(item)
    if rate == sampling_rate:
        return waveform
    report_resampling(rate, sampling_rate)
    return soxr.resample(waveform, rate, sampling_rate)


def read_audio(item: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Decodes a recording at its own sampling rate; otherwise as [`decode_audio`].

    Returns:
        the samples, (S,) float32 with S > 0, and the sampling rate in Hz.
    """
    content = _content(item)
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError(
            f"{file_name(item)} is not a recording that can be read; remove or replace the file."
        ) from error
    waveform = samples.mean(axis=1)
    if waveform.size == 0:
        raise InputError(f"{file_name(item)} has no samples (0.00 s); remove or replace the file.")
    if not np.isfinite(waveform).all():
        first = int(np.argmin(np.isfinite(waveform)))
        raise InputError(
            f"{file_name(item)} holds NaN or infinity, first at {first / rate:.2f} s; repair or remove the file."
        )
    return waveform, rate


@cache
def report_resampling(rate: int, sampling_rate: int) -> None:
    """Logs that recordings are resampled: once for each pair of rates in Hz, however many recordings there are."""
    logger.warning("Recordings at %d Hz are resampled to %d Hz.", rate, sampling_rate)


def _content(item: dict[str, Any]) -> bytes:
    """The bytes of the file, which `datasets` may leave at its place: on disk, in an archive or on the Hub."""
    if item["bytes"] is None:
        if item["path"] is None:
            raise InputError("An item has neither bytes nor a path; leave it out of the data.")
        try:
            if "://" in item["path"]:
                with fsspec.open(item["path"], "rb") as file:
                    content = file.read()
            else:
                content = Path(item["path"]).read_bytes()
        except OSError as error:
            raise InputError(f"{item['path']} cannot be read ({error.strerror or error}); check the path.") from error
    else:
        content = item["bytes"]
    if not content:
        raise InputError(f"{file_name(item)} is empty (0 bytes); remove or replace the file.")
    return content


def file_name(item: dict[str, Any]) -> str:
    """How an item is called in a message."""
    return item["path"] or "An item without a file name"

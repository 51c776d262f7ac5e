"""Against definitions computed elsewhere: Pillow's (which torchvision uses), the standard library's, or loops."""

import colorsys
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from hf_ssl.data.photometry import color_jitter, gaussian_blur, grayscale, shift_hue, solarize

ONE_LEVEL = 1.01 / 255
NO_TURNS = torch.tensor([[0, 1, 2, 3]])


@pytest.fixture
def pixels():
    """A picture with every kind of pixel: random colours, primaries, greys, black and white."""
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    colours[0] = [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [0, 0, 0],
        [255, 255, 255],
        [7, 7, 7],
        [128] * 3,
    ]
    return colours


def tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def of_pil(image):
    return tensor(np.array(image.convert("RGB")))


@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0, 1.8])
@pytest.mark.parametrize(
    ("column", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
def test_blends_are_pillows(pixels, column, enhance, factor):
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    factors[0, column] = factor
    expected = of_pil(enhance(Image.fromarray(pixels)).enhance(factor))
    # Pillow rounds, and its contrast pivots on the mean grey rounded to a level
    torch.testing.assert_close(color_jitter(tensor(pixels), factors, NO_TURNS), expected, atol=2 * ONE_LEVEL, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.07, 0.5])
def test_hue_is_a_rotation_in_hsv(pixels, shift):
    expected = np.empty((8, 8, 3), dtype=np.float32)
    for place in np.ndindex(8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        expected[place] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    got = shift_hue(tensor(pixels), torch.tensor([shift]))
    torch.testing.assert_close(got[0].permute(1, 2, 0), torch.from_numpy(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", permutations(range(4)))
def test_every_order_of_the_jitter(pixels, order):
    """Each image in an order of its own equals the four operations one after the other in that order."""
    factors = torch.tensor([[1.5, 0.4, 1.7, -0.15]])
    turns = torch.empty(1, 4, dtype=torch.long)
    for turn, operation in enumerate(order):
        turns[0, operation] = turn
    expected = tensor(pixels)
    for operation in order:
        alone = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
        alone[0, operation] = factors[0, operation]
        expected = color_jitter(expected, alone, NO_TURNS)
    torch.testing.assert_close(color_jitter(tensor(pixels), factors, turns), expected, atol=1e-5, rtol=0)


def test_images_of_a_batch_do_not_mix(pixels):
    images = torch.cat([tensor(pixels), tensor(pixels[::-1].copy()), tensor(255 - pixels)])
    factors = torch.tensor([[0.3, 1.0, 1.5, 0.1], [1.0, 1.0, 1.0, 0.0], [1.6, 0.2, 0.0, -0.2]])
    turns = torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3], [1, 3, 2, 0]])
    together = color_jitter(images, factors, turns)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(together[one], color_jitter(images[one], factors[one], turns[one]))
    torch.testing.assert_close(together[1], images[1], atol=1e-6, rtol=0)


def test_grayscale_is_pillows_luma(pixels):
    image = tensor(pixels)
    got = grayscale(torch.cat([image, image]), torch.tensor([True, False]))
    torch.testing.assert_close(got[:1], of_pil(Image.fromarray(pixels).convert("L")), atol=ONE_LEVEL, rtol=0)
    assert torch.equal(got[1:], image)


def test_solarize_is_pillows(pixels):
    image = tensor(pixels)
    got = solarize(torch.cat([image, image]), torch.tensor([True, False]))
    torch.testing.assert_close(got[:1], of_pil(ImageOps.solarize(Image.fromarray(pixels), 128)))
    assert torch.equal(got[1:], image)


@pytest.mark.parametrize(("size", "radius"), [(32, 1), (44, 2), (64, 3)])
def test_blur_is_a_gaussian_reflected_at_the_border(size, radius):
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    sigma = 1.3
    taps = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    taps = [tap / sum(taps) for tap in taps]
    padded = np.pad(image[0].numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    expected = sum(
        taps[i] * taps[j] * padded[:, i : i + size, j : j + size]
        for i in range(2 * radius + 1)
        for j in range(2 * radius + 1)
    )
    got = gaussian_blur(torch.cat([image, image]), torch.tensor([sigma, 0.0]))
    torch.testing.assert_close(got[0], torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert torch.equal(got[1:], image)


def test_images_too_small_for_a_kernel_are_not_blurred():
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(gaussian_blur(image, torch.tensor([2.0])), image)

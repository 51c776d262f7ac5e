"""Against the operations that treat the whole batch alike, which test_photometry.py holds to other definitions."""

import pytest
import torch

from hf_ssl.data import photometry, photometry_on_cpu


def images_of(num, size):
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def jitter_of(num):
    """Each image in an order of its own; some factors change nothing, as of an image that is spared."""
    random = torch.Generator().manual_seed(1)
    factors = torch.rand(num, 4, generator=random) * torch.tensor([1.6, 1.6, 1.6, 0.4])
    factors += torch.tensor([0.2, 0.2, 0.2, -0.2])
    spared = torch.rand(num, 4, generator=random) < 0.3
    factors = torch.where(spared, photometry_on_cpu.NEUTRAL, factors)
    return factors, torch.rand(num, 4, generator=random).argsort(dim=1)


def assert_alike(name, images, *parameters):
    expected = getattr(photometry, name)(images.clone(), *parameters)
    got = getattr(photometry_on_cpu, name)(images.clone(), *parameters)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    return got


def test_jitter():
    images = images_of(60, 12)
    factors, turns = jitter_of(60)
    got = assert_alike("color_jitter", images, factors, turns)
    untouched = (factors == photometry_on_cpu.NEUTRAL).all(dim=1)
    factors[7:9] = photometry_on_cpu.NEUTRAL
    assert torch.equal(photometry_on_cpu.color_jitter(images.clone(), factors, turns)[7:9], images[7:9])
    assert (got != images).flatten(1).any(dim=1).equal(~untouched)
    alone = photometry_on_cpu.color_jitter(images[4:5].clone(), factors[4:5], turns[4:5])
    torch.testing.assert_close(alone, got[4:5], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["grayscale", "solarize"])
@pytest.mark.parametrize("which", [[0, 0, 0], [1, 1, 1], [0, 1, 0]])
def test_grey_and_solarize(name, which):
    which = torch.tensor(which) > 0
    images = images_of(3, 12)
    got = assert_alike(name, images, which)
    assert (got != images).flatten(1).any(dim=1).equal(which)


@pytest.mark.parametrize("size", [16, 32, 96, 224])
def test_blur(size):
    images = images_of(6, size)
    sigma = torch.tensor([0.0, 0.1, 0.4, 1.0, 1.6, 2.0])
    got = assert_alike("gaussian_blur", images, sigma)
    assert torch.equal(got[0], images[0])

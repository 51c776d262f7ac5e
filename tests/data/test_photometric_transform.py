import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from hf_ssl.data import photometry_on_cpu
from hf_ssl.data.augmentation import AUGMENTATIONS, View, augmentation, draw_views
from hf_ssl.data.photometric_transform import PhotometricTransform, photometric_parameters
from hf_ssl.data.seeding import item_generator

SIMCLR = augmentation("simclr")
IDENTITY = torch.tensor([1.0, 1.0, 1.0, 0.0])


def draws(num_images, num_views=2, seed=0):
    return draw_views(num_views, [item_generator(seed, 0, index) for index in range(num_images)])


@pytest.fixture(scope="module")
def many():
    """The draws of 4,000 items, of as many views as any preset has."""
    return draws(4000, max(map(len, AUGMENTATIONS.values())))


def of_views(drawn, num_views):
    return {name: draw[:, :num_views] for name, draw in drawn.items()}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_parameters_are_distributed_as_the_preset_says(name, many):
    views = AUGMENTATIONS[name]
    parameters = photometric_parameters(views, of_views(many, len(views)))
    turns, factors, gray, sigma, solarized = parameters.split([4, 4, 1, 1, 1], dim=-1)
    assert torch.equal(turns.sort(dim=-1).values, torch.arange(4.0).expand_as(turns))
    torch.testing.assert_close(turns.mean(dim=(0, 1)), torch.full((4,), 1.5), atol=0.06, rtol=0)
    for v, view in enumerate(views):
        jittered = (factors[:, v] != IDENTITY).any(dim=-1)
        shares = [jittered, gray[:, v, 0] > 0, sigma[:, v, 0] > 0, solarized[:, v, 0] > 0]
        expected = [
            view.jitter_probability,
            view.gray_probability,
            view.blur_probability,
            view.solarize_probability,
        ]
        assert [share.float().mean().item() for share in shares] == pytest.approx(expected, abs=0.03)
        if view.jitter_probability:
            applied, strength = factors[:, v][jittered], torch.tensor(view.jitter)
            torch.testing.assert_close(applied.amin(dim=0), IDENTITY - strength, atol=0.01, rtol=0)
            torch.testing.assert_close(applied.amax(dim=0), IDENTITY + strength, atol=0.01, rtol=0)
        if view.blur_probability:
            blurred = sigma[:, v][sigma[:, v] > 0]
            assert (blurred.min().item(), blurred.max().item()) == pytest.approx((0.1, 2.0), abs=0.05)


def test_jitter_of_a_strength_above_one_stops_at_black():
    view = View(jitter=(1.4, 0.0, 0.0, 0.0), jitter_probability=1.0)
    brightness = photometric_parameters((view,), draws(2000, 1))[..., 4]
    assert (brightness.min().item(), brightness.max().item()) == pytest.approx((0.0, 2.4), abs=0.01)


def view_by_view(crop, parameters, mean, std):
    """One view with Pillow and the standard library, 8 bits between the operations (no blur)."""
    turns, factors = parameters[:4].long().tolist(), parameters[4:8].tolist()
    image = Image.fromarray(crop.permute(1, 2, 0).numpy())
    for operation in sorted(range(4), key=turns.__getitem__):
        if operation == 3:
            image = Image.fromarray(np.apply_along_axis(rotate, 2, np.array(image), factors[3]))
        else:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
            image = enhance(image).enhance(factors[operation])
    if parameters[8]:
        image = image.convert("L").convert("RGB")
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std


def rotate(rgb, shift):
    hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
    return np.round(255 * np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))).astype(np.uint8)


def test_batched_transform_equals_pillow_view_by_view():
    views = AUGMENTATIONS["simclr_small"]
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 2, 3, 6, 6), dtype=np.uint8))
    parameters = photometric_parameters(views, draws(8))
    got = PhotometricTransform(views, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])(
        {"pixel_values": crops, "augmentation": parameters, "other": torch.ones(1)}
    )
    assert got.keys() == {"pixel_values", "other"}
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    for i in range(8):
        for v in range(2):
            expected = view_by_view(crops[i, v], parameters[i, v], mean, std)
            # Pillow rounds down after each of up to five operations, which contrast and saturation then stretch
            difference = (got["pixel_values"][i, v] - expected) * std * 255
            assert difference.abs().max() <= 8
            assert difference.abs().mean() <= 2


def test_pieces_and_batches_do_not_change_a_view(monkeypatch):
    views = AUGMENTATIONS["byol"]
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 2, 3, 20, 20), dtype=np.uint8))
    transform = PhotometricTransform(views, [0.5] * 3, [0.5] * 3)
    batch = {"pixel_values": crops, "augmentation": photometric_parameters(views, draws(5))}
    whole = transform(batch)["pixel_values"]
    monkeypatch.setattr("hf_ssl.data.photometric_transform.CPU_VALUES_AT_ONCE", 3 * 1200)
    torch.testing.assert_close(transform(batch)["pixel_values"], whole)
    one = {name: value[2:3] for name, value in batch.items()}
    torch.testing.assert_close(transform(one)["pixel_values"], whole[2:3])


def test_views_are_fp32_under_autocast():
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 2, 3, 20, 20), dtype=np.uint8))
    transform = PhotometricTransform(SIMCLR, [0.5] * 3, [0.5] * 3)
    batch = {"pixel_values": crops, "augmentation": photometric_parameters(SIMCLR, draws(2))}
    expected = transform(batch)["pixel_values"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transform(batch)["pixel_values"], expected)


def crops_of(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def test_global_and_local_views_are_each_as_they_are_alone():
    views = AUGMENTATIONS["dino_small"]
    parameters = photometric_parameters(views, draws(3, 6))
    transform = PhotometricTransform(views, [0.5] * 3, [0.5] * 3)
    batch = {
        "pixel_values": crops_of(3, 2, 3, 20, 20),
        "augmentation": parameters[:, :2],
        "local_pixel_values": crops_of(3, 4, 3, 10, 10),
        "local_augmentation": parameters[:, 2:],
    }
    got = transform(batch)
    assert got.keys() == {"pixel_values", "local_pixel_values"}
    assert batch["pixel_values"].dtype == torch.uint8  # what came in is left as it is
    alone = PhotometricTransform(AUGMENTATIONS["byol"], [0.5] * 3, [0.5] * 3)
    for prefix in ("", "local_"):
        values = {"pixel_values": batch[f"{prefix}pixel_values"], "augmentation": batch[f"{prefix}augmentation"]}
        torch.testing.assert_close(got[f"{prefix}pixel_values"], alone(values)["pixel_values"])


def test_one_view_with_and_without_a_dimension_for_views():
    views = AUGMENTATIONS["beit"]
    crops, parameters = crops_of(3, 3, 12, 12), photometric_parameters(views, draws(3, 1))
    transform = PhotometricTransform(views, [0.5] * 3, [0.5] * 3)
    flat = transform({"pixel_values": crops, "augmentation": parameters})["pixel_values"]
    assert flat.shape == (3, 3, 12, 12)
    stacked = transform({"pixel_values": crops[:, None], "augmentation": parameters})["pixel_values"]
    torch.testing.assert_close(stacked[:, 0], flat)
    assert (flat - (crops / 255 - 0.5) / 0.5).abs().max() > 0.1  # it did something


def test_plain_crops_are_only_normalised(monkeypatch):
    for name in ("color_jitter", "grayscale", "gaussian_blur", "solarize"):
        monkeypatch.delattr(photometry_on_cpu, name)
    transform = PhotometricTransform(AUGMENTATIONS["crop_flip"], [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    crops = crops_of(4, 3, 9, 9)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(transform({"pixel_values": crops})["pixel_values"], (crops / 255 - mean) / std)

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from hf_ssl.data.augmentation import (
    AUGMENTATIONS,
    NUM_DRAWS,
    PhotometricTransform,
    View,
    augmentation,
    crop_boxes,
    crop_views,
    draw_views,
    photometric_parameters,
)
from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError

SIMCLR = augmentation("simclr")


def draws(num_images, num_views=2, seed=0):
    return draw_views(num_views, [item_generator(seed, 0, index) for index in range(num_images)])


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_draws_of_an_item_do_not_depend_on_its_batch():
    together = draw_views(2, [item_generator(3, 1, index) for index in (5, 6, 7)])
    alone = draw_views(2, [item_generator(3, 1, 6)])
    assert all(torch.equal(together[name][1:2], alone[name]) for name in alone)
    assert sum(draw.shape[-1] for draw in alone.values()) == NUM_DRAWS


def test_two_views_of_an_image_differ():
    boxes = crop_boxes(SIMCLR, draws(4), [(64, 48)] * 4)
    assert (boxes[:, 0] != boxes[:, 1]).any(dim=-1).all()


def naive_box(width, height, area_range, tries, place):
    """Torchvision's RandomResizedCrop.get_params, with the uniform numbers given."""
    for of_area, of_aspect in zip(*tries, strict=True):
        area = width * height * (area_range[0] + (area_range[1] - area_range[0]) * of_area)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * of_aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = math.floor(place[0] * (width - w + 1)), math.floor(place[1] * (height - h + 1))
            return [left, top, left + w, top + h]
    w, h = width, height
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return [left, top, left + w, top + h]


def test_boxes_equal_the_loop():
    views = (View(crop_area=(0.08, 1.0), jitter=(0,) * 4, blur_probability=0), *AUGMENTATIONS["moco_v2"][:1])
    sizes = [(32, 32), (100, 40), (9, 200), (1, 1), (1, 300), (640, 480)] * 20
    drawn = draws(len(sizes))
    boxes = crop_boxes(views, drawn, sizes)
    for i, (width, height) in enumerate(sizes):
        for v, view in enumerate(views):
            tries = drawn["tries"][i, v].chunk(2)
            expected = naive_box(
                width, height, view.crop_area, [t.tolist() for t in tries], drawn["place"][i, v].tolist()
            )
            assert boxes[i, v].tolist() == expected
    # all of them in the image and not empty
    corner, end = boxes[..., :2], boxes[..., 2:]
    assert (corner >= 0).all()
    assert (end > corner).all()
    assert (end <= torch.tensor(sizes)[:, None]).all()


def test_crops_are_cropped_resized_and_flipped():
    image = picture(20, 16)
    boxes = torch.tensor([[[2, 3, 12, 9], [0, 0, 20, 16]]])
    views = crop_views([image], boxes, torch.tensor([[False, True]]), size=8)
    assert views.shape == (1, 2, 3, 8, 8)
    assert views.dtype == torch.uint8
    cropped = np.asarray(image.crop((2, 3, 12, 9)).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(views[0, 0].permute(1, 2, 0), cropped)
    whole = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(views[0, 1].permute(1, 2, 0), whole[:, ::-1])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_parameters_are_distributed_as_the_preset_says(name):
    views = AUGMENTATIONS[name]
    parameters = photometric_parameters(views, draws(4000))
    turns, factors, gray, sigma, solarized = parameters.split([4, 4, 1, 1, 1], dim=-1)
    assert torch.equal(turns.sort(dim=-1).values, torch.arange(4.0).expand_as(turns))
    torch.testing.assert_close(turns.mean(dim=(0, 1)), torch.full((4,), 1.5), atol=0.06, rtol=0)
    for v, view in enumerate(views):
        jittered = (factors[:, v] != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(dim=-1)
        shares = [jittered, gray[:, v, 0] > 0, sigma[:, v, 0] > 0, solarized[:, v, 0] > 0]
        expected = [view.jitter_probability, 0.2, view.blur_probability, view.solarize_probability]
        assert [share.float().mean().item() for share in shares] == pytest.approx(expected, abs=0.03)
        applied = factors[:, v][jittered]
        centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
        strength = torch.tensor(view.jitter)
        torch.testing.assert_close(applied.amin(dim=0), centre - strength, atol=0.01, rtol=0)
        torch.testing.assert_close(applied.amax(dim=0), centre + strength, atol=0.01, rtol=0)
        if view.blur_probability:
            blurred = sigma[:, v][sigma[:, v] > 0]
            assert (blurred.min().item(), blurred.max().item()) == pytest.approx((0.1, 2.0), abs=0.02)


def test_presets_hold_the_published_figures():
    """vision_text 2.1: crop area, jitter, blur and solarize probabilities of each view."""
    figures = {
        name: [
            (v.crop_area[0], v.jitter, v.jitter_probability, v.blur_probability, v.solarize_probability) for v in views
        ]
        for name, views in AUGMENTATIONS.items()
    }
    assert figures == {
        "simclr": [(0.08, (0.8, 0.8, 0.8, 0.2), 0.8, 0.5, 0.0)] * 2,
        "simclr_small": [(0.08, (0.4, 0.4, 0.4, 0.1), 0.8, 0.0, 0.0)] * 2,
        "moco_v2": [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.5, 0.0)] * 2,
        "byol": [(0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 1.0, 0.0), (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.1, 0.2)],
    }


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
    monkeypatch.setattr("hf_ssl.data.augmentation.CPU_VALUES_AT_ONCE", 3 * 1200)
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


def test_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'simclr'"):
        augmentation("simcrl")

import math

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ssl.data.augmentation import AUGMENTATIONS, Square, View, augmentation, draw_views
from hf_ssl.data.cropping import crop_boxes, crop_views
from hf_ssl.data.seeding import item_generator

SIMCLR = augmentation("simclr")
SIZES = [(32, 32), (100, 40), (9, 200), (1, 1), (1, 300), (640, 480)] * 20


def draws(num_images, num_views=2, seed=0):
    return draw_views(num_views, [item_generator(seed, 0, index) for index in range(num_images)])


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


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
    drawn = draws(len(SIZES))
    boxes = crop_boxes(views, drawn, SIZES)
    for i, (width, height) in enumerate(SIZES):
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
    assert (end <= torch.tensor(SIZES)[:, None]).all()


def naive_square(width, height, side, padding, place):
    """Torchvision's RandomCrop of an image padded at all sides, in the coordinates of the image without padding."""
    side, padding = max(1, round(min(width, height) * side)), round(min(width, height) * padding)
    padded_width, padded_height = width + 2 * padding, height + 2 * padding
    left, top = math.floor(place[0] * (padded_width - side + 1)), math.floor(place[1] * (padded_height - side + 1))
    return [left - padding, top - padding, left - padding + side, top - padding + side]


def test_squares_equal_the_loop_beside_views_of_random_area():
    views = (View(square=Square(side=255 / 292)), View(), View(square=Square(side=1.0, padding=1 / 8)))
    drawn = draws(len(SIZES), num_views=3)
    boxes = crop_boxes(views, drawn, SIZES)
    for i, (width, height) in enumerate(SIZES):
        for v in (0, 2):
            square = views[v].square
            expected = naive_square(width, height, square.side, square.padding, drawn["place"][i, v].tolist())
            assert boxes[i, v].tolist() == expected
    assert torch.equal(
        boxes[:, 1], crop_boxes(SIMCLR, {name: draw[:, 1:2] for name, draw in drawn.items()}, SIZES)[:, 0]
    )


def test_cifar_pictures_are_padded_by_four_black_pixels():
    """RotNet's recipe for CIFAR-10: all shifts by up to four pixels, without resizing."""
    image = picture(32, 32)
    rotnet = AUGMENTATIONS["rotnet"]
    boxes = crop_boxes(rotnet, draws(3000, num_views=1), [image.size] * 3000)[:, 0]
    assert (boxes[:, 2:] - boxes[:, :2] == 32).all()
    places, counts = boxes[:, 0].unique(return_counts=True)
    assert places.tolist() == list(range(-4, 5))
    assert (counts / 3000 - 1 / 9).abs().max() < 0.03
    view = crop_views([image], torch.tensor([[[-4, 3, 28, 35]]]), torch.tensor([[False]]), size=32)[0, 0]
    expected = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))[7:39, 0:32]
    assert np.array_equal(view.permute(1, 2, 0), expected)


def assert_resized(view, expected):
    """As Pillow resizes, up to two levels in a few pixels."""
    difference = (view.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.03


@pytest.mark.parametrize("size", [8, 40])
def test_crops_are_cropped_resized_and_flipped(size):
    image = picture(60, 48)
    boxes = torch.tensor([[[2, 3, 12, 9], [0, 0, 60, 48]]])
    views = crop_views([image], boxes, torch.tensor([[False, True]]), size=size)
    assert views.shape == (1, 2, 3, size, size)
    assert views.dtype == torch.uint8
    assert_resized(views[0, 0], image.crop((2, 3, 12, 9)).resize((size, size), Image.Resampling.BICUBIC))
    whole = image.resize((size, size), Image.Resampling.BICUBIC)
    assert_resized(views[0, 1], whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT))

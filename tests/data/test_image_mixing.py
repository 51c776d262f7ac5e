"""Mixup and CutMix against the papers' formulas, image by image and pixel by pixel."""

import numpy as np
import pytest
import torch

from hf_ssl.data.image_mixing import NO_BOX, ImageMixing, draw_box, mix_images, mix_labels


def naive(images, labels, weights, boxes, num_classes):
    mixed, targets = torch.empty_like(images), torch.zeros(len(images), num_classes)
    for i in range(len(images)):
        other = len(images) - 1 if i == 0 else i - 1
        top, left, bottom, right = boxes[i]
        total = 0.0
        for row in range(images.shape[2]):
            for column in range(images.shape[3]):
                cut = top <= row < bottom and left <= column < right
                own = 0.0 if cut else weights[i].item()
                mixed[i, :, row, column] = own * images[i, :, row, column] + (1 - own) * images[other, :, row, column]
                total += own
        share = total / (images.shape[2] * images.shape[3])
        targets[i, labels[i]] += share
        targets[i, labels[other]] += 1 - share
    return mixed, targets


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_against_the_formulas(rows):
    torch.manual_seed(0)
    images, labels = torch.randn(rows, 3, 5, 7), torch.randint(4, (rows,))
    weights = torch.tensor([0.3, 1.0, 1.0, 0.9])[:rows]
    boxes = torch.tensor([NO_BOX, (1, 2, 4, 6), NO_BOX, (0, 0, 5, 7)])[:rows]
    mixed, shares = mix_images(images, weights, boxes)
    expected, targets = naive(images, labels, weights, boxes, 4)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(mix_labels(labels, shares, 4), targets)
    torch.testing.assert_close(mix_labels(labels, shares, 4).sum(dim=1), torch.ones(rows))


def test_a_box_has_the_share_of_the_other_image_unless_the_border_cuts_it():
    size, rng = (40, 60), np.random.default_rng(0)
    seen = 0
    for _ in range(300):
        kept = rng.uniform()
        top, left, bottom, right = draw_box(size, kept, rng)
        assert 0 <= top <= bottom <= 40
        assert 0 <= left <= right <= 60
        area = (bottom - top) * (right - left) / (40 * 60)
        assert area <= 1 - kept + 1e-9
        if top > 0 and left > 0 and bottom < 40 and right < 60:
            # whole pixels, in pairs around the centre
            expected = 2 * (int(40 * (1 - kept) ** 0.5) // 2) * 2 * (int(60 * (1 - kept) ** 0.5) // 2) / (40 * 60)
            assert area == pytest.approx(expected)
            seen += 1
    assert seen > 30


def test_how_often_images_are_mixed_and_how():
    mixing = ImageMixing(mixup=0.8, cutmix=1.0, probability=0.6, cutmix_share=0.25)
    rng = np.random.default_rng(0)
    drawn = [mixing.draw((32, 32), rng) for _ in range(4000)]
    cut = np.mean([box != NO_BOX for _, box in drawn])
    averaged = np.array([weight for weight, box in drawn if weight < 1])
    assert cut == pytest.approx(0.6 * 0.25, abs=0.02)
    assert len(averaged) / 4000 == pytest.approx(0.6 * 0.75, abs=0.03)
    assert averaged.mean() == pytest.approx(0.5, abs=0.02)
    assert averaged.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)  # of Beta(.8, .8)


@pytest.mark.parametrize(("mixing", "cuts"), [({"mixup": 0.8}, False), ({"cutmix": 1.0}, True)])
def test_one_way_alone(mixing, cuts):
    rng = np.random.default_rng(0)
    drawn = [ImageMixing(**mixing).draw((16, 16), rng) for _ in range(50)]
    assert any(box != NO_BOX for _, box in drawn) == cuts
    assert any(weight < 1 for weight, _ in drawn) != cuts

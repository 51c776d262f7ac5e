import numpy as np
import pytest
import torch

from hf_ssl.data.random_erasing import erase


def test_a_rectangle_of_normal_noise():
    image, rng = torch.full((3, 40, 60), 100.0), np.random.default_rng(0)
    erased, areas, noise = 0, [], []
    for _ in range(400):
        changed = erase(image, 0.25, rng) != image
        if not changed.any():
            continue
        erased += 1
        rows, columns = changed[0].any(dim=1).nonzero(), changed[0].any(dim=0).nonzero()
        height, width = (int(places[-1] - places[0] + 1) for places in (rows, columns))
        assert changed.sum() == 3 * height * width  # one whole rectangle, in all channels
        assert 0.3 * 0.8 < height / width < 1.25 / 0.3  # up to whole pixels
        areas.append(height * width / 2400)
    assert erased / 400 == pytest.approx(0.25, abs=0.06)
    assert 0.015 < min(areas) < 0.1
    assert 0.25 < max(areas) < 0.35
    assert (image == 100).all()
    changed = erase(image, 1.0, rng)
    noise = changed[changed != 100]
    assert noise.mean().item() == pytest.approx(0, abs=0.2)
    assert noise.std().item() == pytest.approx(1, abs=0.2)


def test_none():
    image = torch.randn(3, 8, 8)
    assert erase(image, 0.0, np.random.default_rng(0)) is image

import math

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hf_ssl.modeling.blocks.patches import patchify, random_patches, sincos_positions, take_patches
from tests.tiny_vision import generators

MAE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 12, "patch_size": 4}


def test_patchify():
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = patchify(images, (2, 2))
    assert patches.shape == (2, 4, 2 * 3 * 3)
    for row in range(2):
        for column in range(2):
            patch = images[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            assert torch.equal(patches[:, 2 * row + column].view(2, 2, 3, 3), patch.permute(0, 2, 3, 1))


def test_patchify_is_that_of_vit_mae():
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(patchify(images, (3, 3)), ViTMAEForPreTraining(ViTMAEConfig(**MAE)).patchify(images))


def test_positions():
    positions = sincos_positions((3, 5), 8)
    assert positions.shape == (15, 8)
    for row in range(3):
        for column in range(5):
            waves = [f(x / 10_000 ** (i / 2)) for x in (column, row) for f in (math.sin, math.cos) for i in range(2)]
            torch.testing.assert_close(positions[5 * row + column], torch.tensor(waves))


def test_take_patches():
    patches, positions = torch.randn(2, 5, 3), torch.tensor([[4, 0], [2, 2]])
    taken = take_patches(patches, positions)
    assert all(torch.equal(taken[i, j], patches[i, positions[i, j]]) for i in range(2) for j in range(2))


@pytest.mark.parametrize("number", [0, 7, 16])
def test_random_patches(number):
    drawn, others = random_patches(16, number, generators())
    assert drawn.shape == (8, number)
    assert torch.equal(torch.cat([drawn, others], dim=1).sort(dim=1).values, torch.arange(16).expand(8, -1))
    again, _ = random_patches(16, number, generators()[3:4])
    assert torch.equal(again[0], drawn[3])


def test_random_patches_reach_all_alike():
    drawn = torch.cat([random_patches(8, 2, [torch.Generator().manual_seed(i)])[0] for i in range(2000)])
    torch.testing.assert_close(drawn.flatten().bincount() / 2000, torch.full((8,), 0.25), atol=0.04, rtol=0)

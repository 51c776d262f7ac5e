import pytest
import torch
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.patch_codebook import PatchCodebook, PatchCodebookConfig


def build():
    torch.manual_seed(0)
    return PatchCodebook(PatchCodebookConfig(patch_size=2, num_embeddings=7))


def test_a_token_is_the_nearest_patch():
    model, images = build(), 2 * torch.rand(3, 3, 4, 6) - 1
    tokens = model.encode(images)
    assert tokens.shape == (3, 6)
    for i in range(3):
        for patch in range(6):
            row, column = 2 * (patch // 3), 2 * (patch % 3)
            pixels = images[i, :, row : row + 2, column : column + 2].permute(1, 2, 0).flatten()
            assert tokens[i, patch] == (model.codebook - pixels).norm(dim=1).argmin()


def test_its_own_patches_are_their_tokens():
    model = build()
    image = model.codebook.detach()[[3, 1]].view(1, 2, 2, 2, 3).permute(0, 4, 2, 1, 3).reshape(1, 3, 2, 4)
    assert model(image).tolist() == [[3, 1]]


def test_save_and_load(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path).codebook, model.codebook)


@pytest.mark.parametrize("fields", [{"patch_size": 0}, {"num_embeddings": 1}])
def test_sizes_that_are_too_small(fields):
    with pytest.raises(InputError, match="at least 2"):
        PatchCodebookConfig(**fields)

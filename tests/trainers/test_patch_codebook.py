import json

import pytest
import torch
from transformers import AutoModel

from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.beit import BeitForPreTraining
from hf_ssl.trainers.patch_codebook import draw_patches, find_patch_codebook
from hf_ssl.trainers.run import pretrain

EMOJI = ImageDataArguments(path="sample:emoji", image_size=8, augmentation="beit", max_train_items=60)
VALUES = {"model_type": "patch-codebook", "num_embeddings": 12}


def test_patches_are_those_of_the_images():
    patches = draw_patches(EMOJI, 2, 4, seed=0)
    assert patches.shape == (60 * 4, 48)
    assert patches.min() >= -1
    assert 0.5 < patches.max() <= 1


def test_a_codebook_is_found_and_kept(tmp_path):
    folder = find_patch_codebook(EMOJI, VALUES, 4, tmp_path / "tokenizer", seed=0)
    tokenizer = AutoModel.from_pretrained(folder)
    assert tokenizer.config.patch_size == 4  # the encoder's
    patches = draw_patches(EMOJI, 2, 4, seed=0)
    distances = torch.cdist(patches, tokenizer.codebook)
    spread = (patches - patches.mean(dim=0)).square().sum(dim=1).mean()
    assert distances.min(dim=1).values.square().mean() < 0.6 * spread
    assert len(distances.argmin(dim=1).unique()) > 8
    written = json.loads((folder / "codebook.json").read_text())
    assert written["num_patches"] == 240
    (folder / "model.safetensors").unlink()  # nothing is made again
    assert find_patch_codebook(EMOJI, VALUES, 4, folder, seed=0) == folder
    assert not (folder / "model.safetensors").exists()


def test_another_codebook_is_in_the_way(tmp_path):
    find_patch_codebook(EMOJI, VALUES, 4, tmp_path, seed=0)
    with pytest.raises(InputError):
        find_patch_codebook(EMOJI, {**VALUES, "num_embeddings": 13}, 4, tmp_path, seed=0)


def test_a_tokenizer_that_images_do_not_make(tmp_path):
    with pytest.raises(InputError, match="chameleon_vqgan is not made from images"):
        find_patch_codebook(EMOJI, {"model_type": "chameleon_vqgan"}, 4, tmp_path, seed=0)


def test_a_training_makes_its_tokenizer_and_keeps_it(tmp_path):
    overrides = [
        f"training.output_dir={tmp_path / 'out'}",
        "training.max_steps=2",
        "training.per_device_train_batch_size=8",
        "training.use_cpu=true",
        "data.max_train_items=60",
        "data.image_size=16",
        "model.max_masked_patches=6",
        "model.min_block_patches=2",
        "model.tokenizer_config.num_embeddings=12",
        "model.encoder_config.num_hidden_layers=1",
    ]
    output = pretrain(read_pretraining("beit_emoji", overrides), command="hf-ssl pretrain beit_emoji")
    found = AutoModel.from_pretrained(output / "tokenizer")
    model = BeitForPreTraining.from_pretrained(output / "pretraining")
    assert torch.equal(model.tokenizer.codebook, found.codebook)
    assert model.lm_head.out_features == 12
    assert not any("tokenizer" in key for key in AutoModel.from_pretrained(output / "encoder").state_dict())

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import load_encoder, modality_of
from hf_ssl.evaluation.features import frozen, hidden_states
from hf_ssl.trainers import palette
from hf_ssl.trainers.palette import draw_pixels, find_palette
from hf_ssl.trainers.run import pretrain

COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 240]], dtype=np.uint8)


@pytest.fixture
def data(tmp_path):
    """Eight pictures whose pixels are near one of four colours."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        pixels = COLOURS[random.integers(0, 4, (6, 6))] + random.integers(0, 3, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return ImageDataArguments(path=str(folder), image_size=6, num_colours=4, validation_split=None)


def test_finds_the_colours_of_the_pictures(data, tmp_path):
    folder = find_palette(data, tmp_path / "palette", seed=0)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = (np.array(processor.clusters) + 1) * 127.5
    nearest = np.abs(found[:, None] - (COLOURS + 1.0)).max(axis=-1)  # noise of 0, 1, 2: 1 on average
    assert sorted(nearest.argmin(axis=1)) == [0, 1, 2, 3]
    assert nearest.min(axis=1).max() < 0.5
    assert dict(processor.size) == {"height": 6, "width": 6}


def test_a_palette_that_is_there_is_kept(data, tmp_path, monkeypatch):
    folder = find_palette(data, tmp_path / "palette", seed=0)
    before = (folder / "preprocessor_config.json").read_bytes()
    with pytest.raises(InputError, match="num_colours 4, not 3"):
        find_palette(ImageDataArguments(**{**vars(data), "num_colours": 3}), folder, seed=0)
    monkeypatch.setattr(palette, "fit", None)  # nothing is fitted again
    monkeypatch.setattr(palette, "draw_pixels", None)
    other_views = ImageDataArguments(**{**vars(data), "augmentation": "crop"})
    assert find_palette(other_views, folder, seed=0) == folder
    assert (folder / "preprocessor_config.json").read_bytes() == before


def test_the_seed_chooses_the_pixels(data, monkeypatch):
    assert draw_pixels(data, 0).shape == (8 * 36, 3)
    monkeypatch.setattr(palette, "PIXELS_AN_IMAGE", 5)
    monkeypatch.setattr(palette, "MAX_IMAGES", 4)
    pixels = draw_pixels(data, 0)
    assert pixels.shape == (4 * 5, 3)
    assert pixels.abs().max() <= 1
    assert torch.equal(pixels, draw_pixels(data, 0))
    assert not torch.equal(pixels, draw_pixels(data, 1))


def test_more_colours_than_there_are(data, tmp_path):
    many = ImageDataArguments(**{**vars(data), "num_colours": 280})
    with pytest.raises(InputError, match="280 clusters were asked for"):
        find_palette(many, tmp_path / "palette", seed=0)


@pytest.fixture
def command(data, tmp_path):
    """What `hf-ssl pretrain` is given: a GPT of one layer on these pictures, four steps."""
    encoder = {"n_embd": 8, "n_layer": 1, "n_head": 2}
    training = {"max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 2, "use_cpu": "true"}
    return [
        f"data.path={data.path}",
        "data.image_size=6",
        "data.num_colours=4",
        "data.validation_split=null",
        f"training.output_dir={tmp_path / 'run'}",
        *(f"model.encoder_config.{key}={value}" for key, value in encoder.items()),
        *(f"training.{key}={value}" for key, value in training.items()),
    ]


def test_a_run_finds_its_palette_once_and_exports_it(command, data, tmp_path, monkeypatch):
    run = read_pretraining("igpt_emoji", command)
    output = pretrain(run, command="hf-ssl pretrain ...")
    encoder, processor = load_encoder(output / "encoder")
    assert modality_of(encoder) == "vision"
    assert encoder.config.vocab_size == 4 + 1
    assert encoder.config.n_positions == 6 * 6

    found = AutoImageProcessor.from_pretrained(output / "palette", backend="pil").clusters
    for folder in ("encoder", "pretraining", "checkpoint-2"):
        kept = AutoImageProcessor.from_pretrained(output / folder, backend="pil").clusters
        assert np.array_equal(kept, found)
    images = [{"image": {"bytes": None, "path": str(path)}} for path in sorted(Path(data.path).glob("*.png"))]
    inputs = LabelledCollator(modality="vision", processor=processor)(images)
    assert inputs["input_ids"].shape == (8, 36)
    with frozen(encoder):
        states = hidden_states(encoder, inputs, "all")
    assert {layer: state.shape for layer, state in states.items()} == {0: (8, 36, 8), 1: (8, 36, 8)}

    whole = load_file(output / "pretraining" / "model.safetensors")
    for name in ("checkpoint-4", "pretraining", "encoder"):
        shutil.rmtree(output / name)
    (output / "README.md").unlink()
    monkeypatch.setattr(palette, "fit", None)  # it is not looked for again
    pretrain(run, command="hf-ssl pretrain ...", resume=True)
    resumed = load_file(output / "pretraining" / "model.safetensors")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_a_palette_is_for_objectives_that_read_colours(tmp_path):
    overrides = ["data.palette=somewhere", f"training.output_dir={tmp_path}", "training.use_cpu=true"]
    with pytest.raises(InputError, match=r"simclr reads pixels and no colours; leave data\.palette out"):
        pretrain(read_pretraining("simclr_emoji", overrides), command="hf-ssl pretrain ...")

"""`hf-ssl pretrain` on a folder of one's own files, and its encoder where hf_ssl is not installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForPreTraining

from hf_ssl.cli.main import main

RECIPES = {"images": "simclr_emoji", "recordings": "hubert_asterisk", "texts": "bert_glosses"}

SHORT = ["training.max_steps=2", "training.use_cpu=true", "training.logging_steps=1", "training.save_steps=2"]
CHANGED = {
    "images": ["training.per_device_train_batch_size=8"],
    "recordings": ["clustering.num_clusters=8", "data.sampling_rate=16000"],
    "texts": ["data.vocab_size=200", "training.per_device_train_batch_size=4", "data.sentences=punctuation"],
}

HIDDEN_STATES_WITHOUT_HF_SSL = """
import sys
sys.modules["hf_ssl"] = None  # importing it fails, as where it is not installed
from safetensors.torch import load_file, save_file
from transformers import AutoModel
encoder, inputs, output = sys.argv[1:]
model = AutoModel.from_pretrained(encoder).eval()
save_file({"hidden": model(**load_file(inputs)).last_hidden_state.detach().contiguous()}, output)
"""


def write_images(folder: Path) -> None:
    pixels = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(pixels.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def write_recordings(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for number in range(16):
        seconds = np.arange(16_000 * 2) / 16_000
        tone = np.sin(2 * np.pi * 110 * (number + 1) * seconds) * 0.3
        soundfile.write(folder / f"{number}.wav", tone + 0.05 * noise.standard_normal(len(tone)), 16_000)


def write_texts(folder: Path) -> None:
    words = [
        "the",
        "sea",
        "a",
        "ship",
        "its",
        "sail",
        "wind",
        "and",
        "harbour",
        "left",
        "came",
        "under",
        "over",
        "white",
        "storm",
    ]
    choices = np.random.default_rng(0)
    for number in range(12):
        sentences = [" ".join(choices.choice(words, 8)) + "." for _ in range(12)]
        (folder / f"{number}.txt").write_text(" ".join(sentences), encoding="utf-8")


WRITE = {"images": write_images, "recordings": write_recordings, "texts": write_texts}

INPUTS = {
    "images": lambda: {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))},
    "recordings": lambda: {"input_values": torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))},
    "texts": lambda: {"input_ids": torch.arange(5, 45).reshape(2, 20)},
}


@pytest.mark.parametrize("kind", RECIPES)
def test_own_files_to_an_encoder_that_plain_transformers_loads(kind: str, tmp_path: Path) -> None:
    data, run = tmp_path / kind, tmp_path / "run"
    data.mkdir()
    WRITE[kind](data)
    settings = [f"data.path={data}", f"training.output_dir={run}", *SHORT, *CHANGED[kind]]
    assert main(["pretrain", RECIPES[kind], *settings]) == 0
    assert {"encoder", "pretraining", "checkpoint-2", "run.yaml", "metrics.json", "README.md"} <= {
        entry.name for entry in run.iterdir()
    }

    longer = [setting.replace("max_steps=2", "max_steps=3") for setting in settings]
    assert main(["pretrain", RECIPES[kind], *longer, "--resume"]) == 0
    assert (run / "checkpoint-3").is_dir()

    inputs = INPUTS[kind]()
    save_file(inputs, tmp_path / "inputs.safetensors")
    arguments = [run / "encoder", tmp_path / "inputs.safetensors", tmp_path / "hidden.safetensors"]
    subprocess.run([sys.executable, "-c", HIDDEN_STATES_WITHOUT_HF_SSL, *map(str, arguments)], check=True)
    pretraining = AutoModelForPreTraining.from_pretrained(run / "pretraining").eval()
    with torch.no_grad():
        hidden = pretraining.encoder(**inputs).last_hidden_state
    assert torch.equal(load_file(tmp_path / "hidden.safetensors")["hidden"], hidden)

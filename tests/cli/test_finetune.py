import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_ssl.cli.finetune import read_fine_tuning
from hf_ssl.cli.main import main
from hf_ssl.cli.run_file import recipe_names
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from hf_ssl.hub.contents import contents
from hf_ssl.hub.finetuned_card import make_finetuned_card
from hf_ssl.trainers.schedules import tri_stage
from hf_ssl.trainers.tasks import TASKS, task_named
from tests.tiny_encoders import save_image_encoder, save_mel_encoder

PRESETS = {
    # fairseq, examples/wav2vec/config/finetuning and examples/hubert/config/finetune: learning rate, updates, masked
    # shares of time and channels, updates with a frozen encoder, LayerDrop, seconds a GPU, GPUs × micro-batches
    "finetune_wav2vec2_base_10m": (5e-5, 13_000, 0.65, 0.25, 10_000, 0.1, 160, 4),
    "finetune_wav2vec2_base_1h": (5e-5, 13_000, 0.65, 0.25, 10_000, 0.1, 200, 4),
    "finetune_wav2vec2_base_10h": (5e-5, 20_000, 0.65, 0.5, 10_000, 0.05, 200, 4),
    "finetune_wav2vec2_base_100h": (3e-5, 80_000, 0.65, 0.5, 0, 0.1, 200, 4),
    "finetune_wav2vec2_base_960h": (1e-4, 320_000, 0.5, 0.1, 0, 0.1, 200, 1),
    "finetune_wav2vec2_vox_10m": (1e-4, 13_000, 0.65, 0.25, 10_000, 0.1, 80, 7),
    "finetune_wav2vec2_vox_1h": (3e-4, 13_000, 0.75, 0.25, 10_000, 0.1, 80, 5),
    "finetune_wav2vec2_vox_10h": (1e-4, 20_000, 0.75, 0.25, 10_000, 0.1, 80, 5),
    "finetune_wav2vec2_vox_100h": (3e-5, 80_000, 0.5, 0.5, 10_000, 0.1, 80, 5),
    "finetune_wav2vec2_vox_960h": (3e-5, 320_000, 0.5, 0.25, 10_000, 0.1, 80, 1),
    "finetune_hubert_base_10h": (2e-5, 25_000, 0.75, 0.5, 10_000, 0.1, 200, 1),
}
"""The last two are fairseq's but for ten minutes of speech, which do not fill its GPUs and micro-batches."""
RECIPES = [name for name in recipe_names() if name.startswith("finetune_") and name not in PRESETS]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return str(save_image_encoder(tmp_path_factory.mktemp("encoder")))


def command(encoder, output, *more):
    return [
        "finetune",
        f"model.encoder={encoder}",
        "model.task=image-classification",
        "data.path=sample:emoji",
        "data.label_column=category",
        "data.max_train_items=32",
        f"training.output_dir={output}",
        "training.max_steps=4",
        "training.logging_steps=2",
        "training.per_device_eval_batch_size=512",
        "training.use_cpu=true",
        *more,
    ]


def test_finetune_prints_what_came_out_and_how_to_load_it(encoder, tmp_path, capsys):
    assert main(command(encoder, tmp_path, "model.tuner=lora", "--merge")) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert f"{metrics['num_trained_parameters']:,} of {metrics['num_parameters']:,}" in printed
    assert "labelled training items: 32\n" in printed
    for split in ("validation", "test"):
        assert f"{metrics[split]['accuracy']:.4f}" in printed
    lines = [line.strip() for line in printed.splitlines() if "import" in line or " = " in line]
    scope: dict = {}
    exec("\n".join(lines), scope)  # the lines that the command says load the result
    assert len(scope["predict"](Image.new("RGB", (32, 32)))) == 5


def test_the_printed_lines_load_an_adapter(encoder, tmp_path, capsys):
    assert main(command(encoder, tmp_path, "model.tuner=lora")) == 0
    printed = capsys.readouterr().out
    assert "load_finetuned" in printed
    scope: dict = {}
    exec("\n".join(line.strip() for line in printed.splitlines() if "import" in line or " = " in line), scope)
    assert scope["model"].config.id2label[0] == "Smileys & Emotion"


def test_the_printed_lines_load_a_class_of_hf_ssls_own(tmp_path, capsys):
    encoder = save_mel_encoder(tmp_path / "encoder", "parakeet_encoder")
    settings = [
        "training.use_cpu=true",
        "training.max_steps=1",
        "data.max_train_items=8",
        "data.validation_split=null",
    ]
    settings += ["data.path=sample:speech", "data.on_error=skip", "data.test_split=null"]
    output = f"training.output_dir={tmp_path / 'run'}"
    assert main(["finetune", f"model.encoder={encoder}", "model.task=ctc", output, *settings]) == 0
    printed = capsys.readouterr().out
    scope: dict = {}
    exec("\n".join(line.strip() for line in printed.splitlines() if "import" in line or " = " in line), scope)
    assert type(scope["model"]).__name__ == "EncoderForCTC"
    assert "text" in scope["predict"](np.zeros(16_000, dtype=np.float32))


def test_tensorboard_gets_the_losses_and_the_scores(encoder, tmp_path):
    assert main(command(encoder, tmp_path, "training.report_to=tensorboard")) == 0
    tags = set()
    for file in tmp_path.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        tags |= set(events.Tags()["scalars"])
    assert {"train/loss", "train/grad_norm", "eval/accuracy", "test/accuracy"} <= tags


@pytest.mark.slow
def test_trackio_gets_one_run_with_the_losses_and_the_scores(encoder, tmp_path):
    """In a process of its own, since trackio reads where to write when it is imported."""
    subprocess.run(
        [sys.executable, "-m", "hf_ssl.cli.main", *command(encoder, tmp_path / "run", "training.report_to=trackio")],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        check=True,
    )
    (database,) = (tmp_path / "trackio").glob("*.db")
    rows = sqlite3.connect(database).execute("select run_name, metrics from metrics").fetchall()
    assert {name for name, _ in rows} == {"run"}
    logged = {key for _, metrics in rows for key in json.loads(metrics)}
    assert {"train/loss", "eval/accuracy", "test/accuracy"} <= logged


def test_few_labels_are_told(encoder, tmp_path, capsys):
    more = ["data.max_train_items=500", "data.train_fraction=0.1", "data.train_fraction_seed=2", "model.tuner=head"]
    assert main(command(encoder, tmp_path, *more)) == 0
    number = json.loads((tmp_path / "metrics.json").read_text())["num_train_items"]
    assert 45 <= number <= 55
    assert f"labelled training items: {number} (10 % of each class, seed 2)\n" in capsys.readouterr().out
    text = make_finetuned_card(contents(tmp_path), "me/few", None).text
    assert f"It was trained on {number} labelled items, 10 % of each class (seed 2)." in text


def test_the_preset_of_mae():
    """He et al. 2021, table 9, and the authors' FINETUNE.md for ViT-B."""
    run = read_fine_tuning("finetune_vit_imagenet", ["training.use_cpu=true"])
    model, data, settings = run.model, run.data, run.training
    devices = 32
    assert settings.learning_rate == pytest.approx(5e-4 * settings.per_device_train_batch_size * devices / 256)
    assert (settings.layer_decay, settings.weight_decay, settings.label_smoothing_factor) == (0.65, 0.05, 0.1)
    assert (settings.num_train_epochs, settings.warmup_steps, settings.schedule) == (100, 0.05, "cosine")
    assert (settings.adam_beta1, settings.adam_beta2, settings.max_grad_norm) == (0.9, 0.999, 0.0)
    assert settings.learning_rate * settings.final_learning_rate_scale == pytest.approx(1e-6)
    assert (model.drop_path, model.tuner) == (0.1, "none")
    assert (data.mixup, data.cutmix, data.mixing_probability, data.cutmix_share) == (0.8, 1.0, 1.0, 0.5)
    assert (data.random_erasing, data.labelled_augmentation) == (0.25, "random_crop")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_can_be_read(recipe):
    """And name columns that their data have, where that is embedded."""
    run = read_fine_tuning(recipe, ["training.use_cpu=true"])
    assert run.training.output_dir.startswith("runs/")
    if run.data.path.startswith("sample:"):
        splits = load_splits(run.data, task_named(run.model.task).modality)
        assert set(splits) == {"train", "validation", "test"}


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_presets(name):
    run = read_fine_tuning(name, ["training.use_cpu=true"])
    model, settings = run.model, run.training
    assert (
        settings.learning_rate,
        settings.max_steps,
        model.mask_time_prob,
        model.mask_channel_prob,
        settings.freeze_encoder_steps,
        model.encoder_config["layerdrop"],
        settings.max_batch_length,
        settings.gradient_accumulation_steps,
    ) == PRESETS[name]
    assert (model.mask_time_length, model.mask_channel_length) == (10, 64)
    assert (settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon) == (0.9, 0.98, 1e-8)
    assert settings.weight_decay == settings.max_grad_norm == 0
    assert model.freeze_feature_encoder
    assert model.tuner == "none"
    fields = {"activation_dropout": 0.1, "hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0}
    assert model.encoder_config == {"layerdrop": PRESETS[name][5], "final_dropout": 0.0, **fields}

    rates = [factor(name, settings, step) for step in (0, 8000, 10_000, settings.max_steps)]
    if name.startswith("finetune_hubert"):  # warm-up of 8k, then the first 17k of a decay over 72k
        assert rates == pytest.approx([0.01, 1, 0.05 ** (2 / 72), 0.05 ** (17 / 72)], rel=1e-3)
    else:
        assert (rates[0], rates[-1]) == pytest.approx((0.01, 0.05))
        tenth = settings.max_steps // 10
        held = [factor(name, settings, step) for step in (tenth, 5 * tenth - 1, 3 * settings.max_steps // 4)]
        assert held == pytest.approx([1, 1, 0.05**0.5], rel=1e-3)


def factor(name: str, settings, step: int) -> float:
    """The learning rate of a preset at a step over its peak."""
    assert settings.schedule == "tri_stage", name
    return tri_stage(
        step,
        warmup=settings.get_warmup_steps(settings.max_steps),
        total=settings.max_steps,
        hold=round(settings.hold_share * settings.max_steps),
        final_scale=settings.final_learning_rate_scale,
    )


def test_there_is_a_recipe_for_each_modality_with_lora_and_one_for_ctc():
    runs = [read_fine_tuning(recipe, ["training.use_cpu=true"]).model for recipe in RECIPES]
    assert {TASKS[run.task].modality for run in runs if run.tuner == "lora"} == {"vision", "speech", "text"}
    assert "ctc" in {run.task for run in runs}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "does not say model.encoder"),
        (["model.encoder=x"], "does not say model.task"),
        (["model.encoder=x", "model.task=ctc"], "does not say data.path"),
        (["model.encoder=x", "model.task=ctcc", "data.path=p"], "did you mean 'ctc'"),
        (["model.encoder=x", "model.task=ctc", "data.path=p", "model.tunr=lora"], "did you mean 'tuner'"),
        (["model.encoder=x", "model.task=ctc", "data.path=p", "data.image_column=i"], "'image_column'"),
        (["model.encoder=x", "model.task=ctc", "data.path=p", "training.lr=1"], "section training 'lr'"),
    ],
)
def test_settings_that_cannot_be(changes, message, capsys):
    with pytest.raises(InputError, match=message):
        read_fine_tuning(None, changes)
    assert main(["finetune", *(changes or ["training.seed=1"])]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tuner", "message"),
    [
        ("none", "--merge needs an adapter to merge, and the tuner none saves the whole model"),
        ("bitfit", "the tuner bitfit saves the whole model"),
        ("houlsby", "An adapter of the tuner houlsby cannot be merged: there is an activation function in it"),
        ("prefix", "keys and values that no token has; leave --merge out"),
        ("deep_prompt", "tokens that the input does not have; leave --merge out"),
    ],
)
def test_merging_needs_an_adapter_that_is_linear(encoder, tmp_path, capsys, tuner, message):
    assert main(command(encoder, tmp_path, f"model.tuner={tuner}", "--merge")) == 2
    assert message in capsys.readouterr().err


def test_a_field_of_the_tuner_is_a_setting(encoder, tmp_path, capsys):
    assert main(command(encoder, tmp_path, "model.tuner=prefix", "model.tuner_config.num_tokens=3")) == 0
    assert json.loads((tmp_path / "adapter_config.json").read_text())["num_tokens"] == 3
    size = json.loads((tmp_path / "metrics.json").read_text())["size_on_disk"]
    assert size == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert f"{size / 1e6:.2f} MB (the adapter with its head)" in capsys.readouterr().out
    assert main(command(encoder, tmp_path, "model.tuner=prefix", "model.tuner_config.num_token=3")) == 2
    assert "did you mean 'num_tokens'" in capsys.readouterr().err

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_ssl.cli.finetune import read_fine_tuning
from hf_ssl.cli.main import main
from hf_ssl.cli.run_file import recipe_names
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from hf_ssl.trainers.tasks import TASKS, task_named
from tests.tiny_encoders import save_image_encoder

RECIPES = [name for name in recipe_names() if name.startswith("finetune_")]


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


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_can_be_read(recipe):
    """And name columns that their data have."""
    run = read_fine_tuning(recipe, [])
    splits = load_splits(run.data, task_named(run.model.task).modality)
    assert set(splits) == {"train", "validation", "test"}
    assert run.training.output_dir == f"runs/{recipe}"


def test_there_is_a_recipe_for_each_modality_with_lora_and_one_for_ctc():
    runs = [read_fine_tuning(recipe, []).model for recipe in RECIPES]
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


def test_merging_needs_an_adapter(encoder, tmp_path, capsys):
    assert main(command(encoder, tmp_path, "--merge")) == 2
    assert "--merge needs an adapter" in capsys.readouterr().err

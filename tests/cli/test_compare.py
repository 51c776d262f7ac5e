"""Objectives compared through the command line, on a few pictures."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from PIL import Image

from hf_ssl.cli.comparison_plan import read_encoder, read_objective
from hf_ssl.cli.main import main
from hf_ssl.modeling import OBJECTIVES
from hf_ssl.trainers import comparison, training_budget
from hf_ssl.trainers.pretraining import SSLTrainer

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
STEPS = 6
ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Noise around three colours: 36 pictures to train on, 9 to validate and 12 to test."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 3), ("test", 4)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = random.normal(colour, 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def command(pictures: Path, output: Path, *more: str, label: str | None = "label", budget: str = str(STEPS)):
    return [
        *("compare", "--data", str(pictures), "--budget", budget, "--output", str(output), "--batch-size", "12"),
        *(() if label is None else ("--label", label)),
        *(f"encoder.{key}={value}" for key, value in ENCODER.items()),
        "training.use_cpu=true",
        "training.disable_tqdm=true",
        *more,
    ]


@pytest.fixture(scope="module")
def compared(pictures, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("compared")
    more = ["--objectives", "simclr,mae", "igpt", "--seeds", "1", "2", "simclr.model.temperature=0.3"]
    assert main(command(pictures, output, *more)) == 0
    return output


def read(folder: Path, name: str = "comparison.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_all_objectives_share_what_they_are_to_share(compared):
    rows = {row["name"]: row for row in read(compared)["objectives"]}
    assert list(rows) == ["simclr", "mae", "igpt"]
    encoders = [row["settings"]["model"]["encoder_config"] for row in rows.values()]
    assert encoders[0] == encoders[1] == {"model_type": "vit", "patch_size": 2, **ENCODER}
    for name, seed in (("simclr", 1), ("simclr", 2), ("mae", 1), ("mae", 2)):
        settings = read(compared / name / f"seed-{seed}", "settings.json")
        assert settings["data"]["image_size"] == 16  # the pictures' own
        assert settings["training"]["per_device_train_batch_size"] == 12
        assert (settings["training"]["max_steps"], settings["training"].get("seed")) == (STEPS, seed)
    assert rows["simclr"]["settings"]["model"]["temperature"] == 0.3
    assert rows["simclr"]["settings"]["training"]["learning_rate"] == 2e-3  # of recipe simclr_emoji
    assert rows["mae"]["settings"]["training"]["adam_beta2"] == 0.95  # of recipe mae_emoji
    assert rows["mae"]["settings"]["data"]["augmentation"] == "crop_flip"


def test_an_objective_that_cannot_hold_the_encoder_is_reported_and_the_others_go_on(compared):
    igpt = read(compared)["objectives"][2]
    assert igpt["seeds"] == []
    assert "iGPT needs an 'imagegpt'" in igpt["failures"]["igpt"]
    assert "| iGPT | failed: The encoder 'vit' reads no colours" in (compared / "comparison.md").read_text()


def test_scores_are_means_over_seeds_beside_random_initialisation_and_pixels(compared):
    result, table = read(compared), (compared / "comparison.md").read_text()
    for row in result["objectives"][:2]:
        judged = [read(compared / row["name"] / f"seed-{seed}", "judgement.json") for seed in (1, 2)]
        for summary in result["summaries"][row["name"]]["rows"]:
            values = [seed["measurements"][summary["method"]]["scores"]["balanced_accuracy"] for seed in judged]
            assert summary["balanced_accuracy"] == {"mean": fmean(values), "spread": stdev(values)}
            assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in table
    features = {(row["features"], row["method"]): row for row in result["baselines"]}
    assert set(features) == {
        (name, method) for name in ("random initialisation", "pixels (32 × 32)") for method in ("linear probe", "kNN")
    }
    assert features["pixels (32 × 32)", "linear probe"]["summary"]["accuracy"]["mean"] == 1  # three colours
    assert result["items"]["num_items"] == {"train": 36, "validation": 9, "test": 12}


def test_accuracy_stands_against_steps_seconds_and_encoder_passes(compared):
    result = read(compared)
    for name, passes in (("simclr", 2.0), ("mae", (1 + 16) / (1 + 64))):  # two views; a quarter of the patches
        logs = [read(compared / name / f"seed-{seed}", "trainer_state.json")["log_history"] for seed in (1, 2)]
        curve = result["summaries"][name]["online_knn_accuracy"]
        assert [point["step"] for point in curve] == [0, 2, 4, 6]
        for point in curve:
            entries = [
                next(entry for entry in log if entry["step"] == point["step"] and "eval_knn_accuracy" in entry)
                for log in logs
            ]
            values = [entry["eval_knn_accuracy"] for entry in entries]
            assert (point["mean"], point["spread"]) == (fmean(values), stdev(values))
            assert point["seconds"] == fmean(entry["training_seconds"] for entry in entries)
            assert point["passes"] == pytest.approx(12 * point["step"] * passes)
        assert 0 == curve[0]["seconds"] < curve[1]["seconds"] < curve[3]["seconds"]


def test_the_page_needs_nothing_but_itself(compared):
    page = (compared / "comparison.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert page.count("<svg") == 3 + 3  # scores, curves, collapse; maps of two objectives and the untrained encoder
    for said in ("Accuracy against compute", "effective rank", "random initialisation", "not told apart", "mae_emoji"):
        assert said in page
    result = read(compared)
    for objective in result["objectives"][:2]:
        places = [seed["judgement"]["places"] for seed in objective["seeds"]]
        assert np.shape(places[0]) == (12, 2)
        assert places[1] == []  # of the first seed only


def test_started_again_it_trains_nothing_and_writes_the_same(pictures, compared, tmp_path, monkeypatch):
    output = shutil.copytree(compared, tmp_path / "again")

    def again(*args, **options):
        raise AssertionError("this was done already")

    monkeypatch.setattr(comparison, "pretrain", again)
    monkeypatch.setattr(comparison.Bench, "judge", again)
    monkeypatch.setattr(comparison.Bench, "baselines", again)
    more = ["--objectives", "simclr", "mae", "igpt", "--seeds", "1", "2", "simclr.model.temperature=0.3"]
    assert main(command(pictures, output, *more)) == 0
    first, second = read(compared), read(output)
    assert second["summaries"] == first["summaries"]
    assert second["baselines"] == first["baselines"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--batch-size", "6"], "batch_size=12, and this comparison has 6"),
        (["encoder.hidden_size=32"], "encoder.hidden_size=16, and this comparison has 32"),
        (["simclr.model.temperature=0.1"], "model.temperature=0.3, and this comparison has 0.1"),
        (["training.learning_rate=0.1"], "training.learning_rate=0.002, and this comparison has 0.1"),
        (["--budget", "7"], "budget='6 steps', and this comparison has '7 steps'"),
        (["--budget", "1m"], "budget='6 steps', and this comparison has '1 minutes'"),
    ],
)
def test_a_changed_setting_is_refused(pictures, compared, tmp_path, capsys, changes, message):
    output = shutil.copytree(compared, tmp_path / "changed")
    more = ["--objectives", "simclr", "--seeds", "1", "simclr.model.temperature=0.3", *changes]
    assert main(command(pictures, output, *more)) == 2
    assert message in capsys.readouterr().err


def test_stopped_in_the_middle_it_goes_on_where_it_was(pictures, compared, tmp_path, monkeypatch, capsys):
    training_step = SSLTrainer.training_step

    def stopped(self, *args, **kwargs):
        if Path(self.args.output_dir).parent.name == "mae" and self.state.global_step == STEPS - 1:
            raise KeyboardInterrupt
        return training_step(self, *args, **kwargs)

    arguments = command(
        pictures, tmp_path, "--objectives", "simclr,mae", "--seeds", "1", "simclr.model.temperature=0.3"
    )
    monkeypatch.setattr(SSLTrainer, "training_step", stopped)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 130
    assert "same command" in capsys.readouterr().err
    assert (tmp_path / "mae" / "seed-1" / f"checkpoint-{STEPS - 1}").is_dir()
    made = (tmp_path / "simclr" / "seed-1" / "encoder" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(SSLTrainer, "training_step", training_step)
    assert main(arguments) == 0
    assert (tmp_path / "simclr" / "seed-1" / "encoder" / "model.safetensors").stat().st_mtime_ns == made
    for name in ("simclr", "mae"):  # as if it had not been stopped
        whole, resumed = (read(folder / name / "seed-1", "judgement.json") for folder in (compared, tmp_path))
        assert resumed == whole
    cost = [
        read(folder / "mae" / "seed-1", "trainer_state.json")["log_history"][-1] for folder in (compared, tmp_path)
    ]
    assert cost[1]["encoder_passes"] == pytest.approx(cost[0]["encoder_passes"])


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(pictures, compared, tmp_path):
    """The process dies in the second objective, as by a power cut."""
    arguments = command(
        pictures, tmp_path, "--objectives", "simclr,mae", "--seeds", "1", "simclr.model.temperature=0.3"
    )
    script = (
        "import os, signal, sys\n"
        "from hf_ssl.cli.main import main\n"
        "from hf_ssl.trainers.pretraining import SSLTrainer\n"
        "training_step = SSLTrainer.training_step\n"
        "def killed(self, *args, **kwargs):\n"
        "    if '/mae/' in self.args.output_dir and self.state.global_step == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return training_step(self, *args, **kwargs)\n"
        "SSLTrainer.training_step = killed\n"
        "main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, timeout=500, check=False)
    assert done.returncode == -signal.SIGKILL
    assert main(arguments) == 0
    for name in ("simclr", "mae"):
        whole, resumed = (read(folder / name / "seed-1", "judgement.json") for folder in (compared, tmp_path))
        assert resumed == whole


def test_a_run_that_fails_does_not_end_the_others(pictures, tmp_path, monkeypatch, capsys):
    pretrain = comparison.pretrain

    def fails(run, **options):
        if run.objective == "rotation":
            raise RuntimeError("the disk sighed\nand more")
        return pretrain(run, **options)

    monkeypatch.setattr(comparison, "pretrain", fails)
    arguments = command(pictures, tmp_path, "--objectives", "rotation,mae", "--seeds", "1", budget="2", label=None)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert re.search(r"1 failed: .*rotation/seed-1 \(the disk sighed\); start the same command", said.err)
    assert "| RotNet | failed: the disk sighed |" in said.out
    assert "| MAE | 2 |" in said.out
    assert "* Without labels nothing is known" in said.out
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1 + 2  # collapse, and the maps
    assert "mean colour of its image" in page
    monkeypatch.setattr(comparison, "pretrain", pretrain)
    assert main(arguments) == 0
    assert [len(row["seeds"]) for row in read(tmp_path)["objectives"]] == [1, 1]


def test_a_budget_of_minutes_is_measured_once(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(training_budget, "MEASURED_STEPS", 3)
    arguments = command(pictures, tmp_path, "--objectives", "mae", "--seeds", "1", budget="0.004m", label=None)
    assert main(arguments) == 0
    budget = read(tmp_path / "mae", "budget.json")
    seconds = budget["seconds_a_step"] + budget["seconds_an_epoch"] / budget["steps_an_epoch"]
    assert budget["steps_an_epoch"] == 3
    assert budget["max_steps"] == max(1, math.floor(0.24 / seconds))
    state = read(tmp_path / "mae" / "seed-1", "trainer_state.json")
    assert state["global_step"] == budget["max_steps"]
    assert not (tmp_path / "mae" / "timing").exists()
    monkeypatch.setattr(training_budget, "_measure", None)
    assert main(arguments) == 0
    assert read(tmp_path / "mae", "budget.json") == budget


def test_counts_of_patches_follow_the_encoders():
    encoder, shared = {"model_type": "vit", "patch_size": 8}, {"data": {"image_size": 32}}
    model = read_objective("beit", encoder, shared, []).model
    assert (model["max_masked_patches"], model["min_block_patches"]) == (6, 1)  # of 16 instead of 64
    assert read_objective("data2vec_vision", encoder, shared, []).model["min_mask_block"] == 1


def test_an_image_gpt_has_the_sizes_of_its_recipe():
    sizes = read_encoder("imagegpt", 16, [])
    assert (sizes["n_embd"], sizes["resid_pdrop"]) == (96, 0.0)


def test_by_default_all_objectives_are_compared_that_the_encoder_suits(pictures, tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr("hf_ssl.cli.compare.compare", lambda plan, **_: plans.append(plan) or sys.exit(0))
    for encoder in (["--encoder", "resnet"], []):
        words = [word for word in command(pictures, tmp_path) if not word.startswith("encoder.")]
        with pytest.raises(SystemExit):
            main([*words, *encoder])
    resnet, vit = plans
    images = {name for name, row in OBJECTIVES.items() if row.modality == "vision"}
    assert set(vit.runs) == images - {"igpt"}
    assert set(resnet.left_out) == {
        *("moco_v3", "ibot", "mae", "beit", "simmim", "masked_patch", "data2vec_vision", "ijepa", "igpt")
    }
    assert set(resnet.runs) == images - set(resnet.left_out)
    assert vit.runs["jigsaw"].model["patch_size"] == 4  # 12 of 48 pixels
    assert vit.runs["dino"].data.local_image_size == 8
    assert vit.runs["beit"].model["max_masked_patches"] == 25  # as many patches as the recipe's
    assert vit.seeds == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--objectives", "simcrl"], "did you mean 'simclr'"),
        (["--objectives", "hubert"], "no objective of images 'hubert'"),
        (["--budget", "10h"], "--budget 10h cannot be used"),
        (["--budget", "0m"], "--budget 0m cannot be used"),
        (["--seeds", "1", "1"], "--seeds names one twice"),
        (["--encoder", "vitt"], "did you mean 'vit"),
        (["encoder.hidden_sise=8", "--objectives", "mae"], "did you mean 'hidden_size'"),
        (["--objectives", "mae", "simclr.model.temperature=1"], "no place for a setting 'simclr'"),
        (["--objectives", "mae", "mae.model.mask_ration=.5"], "did you mean 'mask_ratio'"),
        (["--objectives", "mae", "mae.training.max_steps=5"], "is the same for all objectives; use --budget"),
        (["--objectives", "mae", "model.encoder_config.hidden_size=5"], "use --encoder"),
        (["--label", "kind"], "no column in"),
        (["data.streaming=true", "--objectives", "mae"], "reads its data more than once"),
    ],
)
def test_comparisons_that_cannot_be(pictures, tmp_path, capsys, more, message):
    assert main([*command(pictures, tmp_path / "none"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

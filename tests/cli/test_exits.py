"""`hf-ssl exits`, from fine-tuning to the card."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from hf_ssl.cli.main import main
from hf_ssl.hub.contents import contents
from hf_ssl.hub.finetuned_card import make_finetuned_card
from hf_ssl.trainers import load_finetuned
from tests.evaluation.tiny_data import image_data
from tests.tiny_encoders import save_image_encoder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    return image_data(folder / "photos").path


def finetune(folder: Path, photos: str, *more: str) -> int:
    encoder = folder.parent / "encoder"
    if not encoder.is_dir():
        save_image_encoder(encoder)
    settings = ["training.max_steps=4", "training.learning_rate=1e-2", "training.use_cpu=true"]
    settings += ["training.save_strategy=no", "training.logging_strategy=no", f"training.output_dir={folder}"]
    data = [f"data.path={photos}", "data.label_column=label"]
    return main(["finetune", f"model.encoder={encoder}", "model.task=image-classification", *data, *settings, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "exits"
    assert (
        finetune(folder, photos, "model.exits.layers=[1]", "model.tuner=lora", "training.exit_scheme=two_stage") == 0
    )
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "exits"))


def test_finetune_prints_every_exit(tmp_path, photos, capsys):
    assert finetune(tmp_path / "run", photos, "model.exits.layers=all", "training.exit_scheme=alternating") == 0
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "| exit after layer | validation accuracy | validation macro_f1 | test accuracy" in printed
    assert f"| 1 | {metrics['exits']['validation']['1']['accuracy']:.4g} |" in printed
    scope: dict = {}
    exec("\n".join(line.strip() for line in printed.splitlines() if "import" in line or " = " in line), scope)
    assert type(scope["model"]).__name__ == "EarlyExitForImageClassification"


@pytest.mark.parametrize(
    ("goal", "policy"),
    [
        (["--speed", "1.1"], "entropy"),
        (["--speed", "1.1", "--measured", "--timed-items", "4", "--rounds", "1"], "max_probability"),
        (["--loss", "0.5"], "margin"),
        (["--loss", "0.4", "--confidence", "0.9"], "entropy"),
        (["--loss", "0.4", "--confidence", "0.9", "--risk", "disagreement"], "max_probability"),
    ],
)
def test_calibrate_keeps_the_threshold_in_the_model(run, goal, policy, capsys):
    assert main(["exits", "calibrate", str(run), *goal, "--policy", policy]) == 0
    printed = capsys.readouterr().out
    kept = json.loads((run / "metrics.json").read_text())["exit_calibration"]
    model, _ = load_finetuned(run)
    assert model.config.exit_policy == ("never" if kept["is_full_depth"] else policy)
    if not kept["is_full_depth"]:
        assert model.config.exit_threshold == kept["threshold"]
        assert f"is above {kept['threshold']:.6g}, chosen on the 8 validation items" in printed
    guarantee = model.config.exit_guarantee
    if "--confidence" in goal:
        assert (guarantee["bound"], guarantee["confidence"], guarantee["split"]) == (0.4, 0.9, "validation")
        assert guarantee["risk"] == ("disagreement" if "--risk" in goal else "loss")
    else:
        assert guarantee is None
    with torch.no_grad():
        output = model(pixel_values=torch.randn(3, 3, 32, 32))
    assert set(output.exit_layer.tolist()) <= {1, 2}
    # another calibration begins anew
    assert main(["exits", "calibrate", str(run), "--speed", "1"]) == 0
    assert AutoConfig.from_pretrained(run).exit_policy == "never"
    assert "Nothing leaves early" in capsys.readouterr().out


def test_a_model_that_has_learned_to_exit(tmp_path, photos):
    settings = ["model.exits.learn_to_exit=true", "model.exits.pooling=mean"]
    assert finetune(tmp_path / "run", photos, *settings) == 0
    assert main(["exits", "calibrate", str(tmp_path / "run"), "--speed", "1.2", "--policy", "learned"]) == 0
    model, _ = load_finetuned(tmp_path / "run")
    assert model.config.exit_policy == "learned"
    assert model.config.pooling == "mean"
    with torch.no_grad():
        assert set(model(torch.randn(6, 3, 32, 32)).exit_layer.tolist()) <= {1, 2}


def test_curve_prints_a_table_and_the_card_has_it_with_the_plot(run, capsys):
    assert main(["exits", "calibrate", str(run), "--speed", "1.2"]) == 0
    chosen = AutoConfig.from_pretrained(run).exit_threshold
    assert main(["exits", "curve", str(run), "--points", "3", "--rounds", "1", "--timed-items", "4"]) == 0
    printed = capsys.readouterr().out
    curve = json.loads((run / "metrics.json").read_text())["exit_curve"]
    assert curve["settings"]["chosen_threshold"] == chosen
    assert chosen in [point["threshold"] for point in curve["points"]]
    assert curve["points"][0]["depth"] == 1
    assert "| threshold | layers used | accuracy | macro_f1 | time, batch 32 | time, batch 1 |" in printed
    for point in curve["points"]:
        assert set(point["time"]) == {"32", "1"}
        row = f"| {point['threshold']:.6g} | {point['depth']:.0%} | {point['scores']['accuracy']:.4g} |"
        assert row in printed
    sent = contents(run)
    assert "exit_curve.svg" in sent.files
    assert sent.files["exit_curve.svg"].read_text().startswith("<svg")
    card = str(make_finetuned_card(sent, "me/exits", json.loads((run / "adapter_config.json").read_text())))
    assert "## Early exit" in card
    assert row in card
    assert "![Score against speed](exit_curve.svg)" in card
    assert "| exit after layer | validation accuracy" in card
    assert f"is above {chosen:.6g}, chosen on the 8 validation items" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["calibrate", "--loss", "0.01", "--confidence", "0.95"],
            "8 validation items are too few to promise a risk of",
        ),
        (["calibrate", "--speed", "40"], "A speed of 40 is out of reach"),
        (["calibrate", "--loss", "0.1", "--policy", "learned"], "has not learned to exit; fine-tune it with"),
        (["calibrate", "--speed", "1.2", "--confidence", "0.9"], "--confidence promises a loss; give --loss"),
        (["calibrate", "--loss", "0.1", "--measured"], "--measured is of --speed"),
        (["calibrate", "--loss", "0.1", "data.validation_split=null"], "There is no split of the data 'validation'"),
        (["curve", "--split", "tests"], "There is no split of the data 'tests'; did you mean 'test'"),
        (["curve", "--data", "sample:emoji", "data.label_column=category"], "sample:emoji has the classes"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(run, arguments, message, capsys):
    command, *options = arguments
    assert main(["exits", command, str(run), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said


def test_a_model_without_exits_and_no_model_at_all(tmp_path, photos, capsys):
    assert finetune(tmp_path / "plain", photos) == 0
    assert main(["exits", "calibrate", str(tmp_path / "plain"), "--speed", "1.5"]) == 2
    assert "holds a ViTForImageClassification, which has no exits; fine-tune one with" in capsys.readouterr().err
    assert main(["exits", "curve", str(tmp_path / "nothing")]) == 2
    assert "There is no fine-tuned model at" in capsys.readouterr().err
    assert finetune(tmp_path / "deep", photos, "model.exits.layers=[1,9]") == 2
    assert "There is no layer 9 for an exit; the encoder has layers 1 to 2" in capsys.readouterr().err


def test_a_threshold_outside_its_range(run, capsys):
    file = run / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "exit_policy": "entropy", "exit_threshold": 1.5}))
    assert main(["exits", "curve", str(run)]) == 2
    assert "exit_threshold is 1.5; give a number from 0 to 1" in capsys.readouterr().err

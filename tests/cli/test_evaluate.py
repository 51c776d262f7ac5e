import json
import shlex
from dataclasses import asdict

import pytest
import torch
import yaml
from transformers import ViTImageProcessorPil

from hf_ssl.cli.main import main
from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.hub.environment import save_environment
from tests.evaluation.tiny_data import image_data
from tests.tiny import TINY
from tests.tiny_encoders import save_image_encoder
from tests.trainers.recordings import write_recordings


@pytest.fixture
def encoder(tmp_path):
    return str(save_image_encoder(tmp_path / "encoder"))


def evaluate(capsys, monkeypatch, *arguments):
    """Exit code, standard output and standard error of the command."""
    argv = ["evaluate", *arguments]
    monkeypatch.setattr("sys.argv", ["hf-ssl", *argv])
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table_and_json(encoder, tmp_path, capsys, monkeypatch):
    output = tmp_path / "results.json"
    images = image_data(tmp_path / "data").path
    data = ["--data", images, "--label", "label", "--set", "data.max_train_items=12"]
    code, printed, _ = evaluate(
        capsys, monkeypatch, encoder, *data, "--layers", "0,-1", "--pooling", "cls", "--output", str(output)
    )
    assert code == 0
    lines = printed.splitlines()
    assert lines[0].startswith("| features | method | labelled items | layer | accuracy |")
    assert [line.split(" | ")[0] for line in lines[2:8]] == [
        *["| encoder"] * 2,
        *["| random initialisation (seeds 0, 1, 2)"] * 2,
        *["| pixels (32 × 32)"] * 2,
    ]
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["num_items"]["train"] == 12
    assert (result["num_classes"], result["pooling"], result["encoder"]) == (2, "cls", encoder)
    assert {run["layer"] for row in result["rows"][:4] for run in row["runs"]} <= {0, 2}
    assert shlex.split(result["command"])[:3] == ["hf-ssl", "evaluate", encoder]
    assert f"Command: `{result['command']}`" in lines
    assert result["versions"]["torch"] == torch.__version__


def test_results_of_a_run_go_into_its_metrics_and_card(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    model, _ = TINY["simclr"]()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    model.save_pretrained(run / "pretraining")
    model.export_encoder(run / "encoder", processor)
    training = {"output_dir": str(run), "seed": 7}
    data = asdict(ImageDataArguments(path="sample:emoji"))
    facts = {"objective": "simclr", "model": {}, "data": data, "training": training}
    (run / "run.yaml").write_text(yaml.safe_dump(facts), encoding="utf-8")
    save_environment(run, "hf-ssl pretrain simclr_emoji")
    images = image_data(tmp_path / "data").path
    code, printed, _ = evaluate(capsys, monkeypatch, str(run / "encoder"), "--data", images, "--label", "label")
    assert code == 0
    assert f"Added to {run / 'metrics.json'}" in printed
    results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["results"]
    own = [row for row in results if row["features"] == "pretrained" and row["metric"] == "accuracy"]
    assert [(row["evaluation"], row["seeds"]) for row in own] == [
        ("offline linear probe of label", [7]),
        ("offline kNN of label", [7]),
    ]
    assert f"{own[0]['values'][0]:.3f}" in (run / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "sample:emjoi", "--label", "category"], "did you mean 'emoji'"),
        (["--data", "sample:emoji", "--label", "categry"], "did you mean 'category'"),
        (["--data", "sample:emoji", "--label", "category", "--layers", "7"], "There is no layer 7"),
        (["--data", "sample:emoji", "--label", "category", "--set", "data.image_colunm=x"], "'image_column'"),
        (["--data", "sample:emoji", "--label", "category", "--set", "training.seed=1"], "'training'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(encoder, arguments, message, capsys, monkeypatch):
    code, _, complaint = evaluate(capsys, monkeypatch, encoder, *arguments)
    assert code == 2
    assert complaint.splitlines()[-1].startswith("hf-ssl: ")
    assert message in complaint.splitlines()[-1]


def test_data_of_another_modality(encoder, tmp_path, capsys, monkeypatch):
    recordings = write_recordings(tmp_path / "data", {"train": 3})
    code, _, complaint = evaluate(capsys, monkeypatch, encoder, "--data", recordings.path, "--label", "speaker")
    assert code == 2
    assert "column" in complaint


def test_layers_that_are_no_layers(encoder, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        evaluate(capsys, monkeypatch, encoder, "--data", "sample:emoji", "--label", "category", "--layers", "first")
    assert stopped.value.code == 2
    assert "'first' is not 'last', 'all' or numbers" in capsys.readouterr().err

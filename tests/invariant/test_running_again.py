"""The same command started again."""

import json
from pathlib import Path

import pytest

from hf_ssl.cli.main import main


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(16):
        (folder / f"{number}.txt").write_text(f"Ship {number} left. It came under the wind. " * 20)
    return folder


def command(texts: Path, *more: str) -> list[str]:
    settings = ["data.vocab_size=200", "data.sentences=punctuation", "training.per_device_train_batch_size=4"]
    steps = ["training.save_steps=2", "training.use_cpu=true", "training.logging_steps=1"]
    output = f"training.output_dir={texts.parent / 'run'}"
    return ["pretrain", "bert_glosses", f"data.path={texts}", output, *settings, *steps, *more]


def test_a_finished_run_is_left_as_it_is_and_a_longer_one_goes_on(texts: Path, capsys) -> None:
    assert main(command(texts, "training.max_steps=2")) == 0
    metrics = texts.parent / "run" / "metrics.json"
    first = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({**first, "results": []}))
    assert main(command(texts, "training.max_steps=2")) == 2
    assert "add --resume to continue" in capsys.readouterr().err
    assert main(command(texts, "training.max_steps=2", "--resume")) == 0
    assert json.loads(metrics.read_text()) == {**first, "results": []}
    assert main(command(texts, "training.max_steps=4", "--resume")) == 0
    assert "train_runtime" not in json.loads(metrics.read_text()), "it would be of the last part only"


def test_another_model_does_not_go_on_from_its_checkpoint(texts: Path, capsys) -> None:
    assert main(command(texts, "training.max_steps=2")) == 0
    capsys.readouterr()
    assert main(command(texts, "training.max_steps=4", "--resume", "model.encoder_config.hidden_size=32")) == 2
    assert "is of a run with encoder_config.hidden_size 64, this one has 32" in capsys.readouterr().err
    output = texts.parent / "run"
    simclr = ["pretrain", "simclr_emoji", f"training.output_dir={output}", "training.use_cpu=true", "--resume"]
    assert main(simclr) == 2
    assert "is of a run with model_type 'bert-pretraining', this one has 'simclr'" in capsys.readouterr().err
    pretraining = [f"model.from_encoder={output / 'pretraining'}", f"training.output_dir={output}-2"]
    assert main(["pretrain", "simclr_emoji", *pretraining]) == 2
    assert "is the pretraining checkpoint of 'bert-pretraining'; give the encoder" in capsys.readouterr().err

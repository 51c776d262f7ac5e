"""A disk that fills up while a run is under way."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = ["data.vocab_size=200", "training.per_device_train_batch_size=4", "training.save_steps=2"]


def pretrain(tmp_path: Path, *more: str, largest_file: int | None = None) -> subprocess.CompletedProcess:
    """The command in a process of its own, whose files the system lets grow up to a number of bytes."""
    paths = [f"data.path={tmp_path / 'texts'}", f"training.output_dir={tmp_path / 'run'}"]

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [
            sys.executable,
            "-m",
            "hf_ssl.cli.main",
            "pretrain",
            "bert_glosses",
            *paths,
            *SETTINGS,
            "training.use_cpu=true",
            *more,
        ],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def texts(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(16):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"Ship {number} left. It came under the wind. " * 20)


@pytest.mark.usefixtures("texts")
def test_checkpoints_stay_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    assert pretrain(tmp_path, "training.max_steps=2").returncode == 0
    weights = (tmp_path / "run/checkpoint-2/model.safetensors").read_bytes()
    failed = pretrain(tmp_path, "training.max_steps=4", "--resume", largest_file=len(weights) // 2)
    assert failed.returncode == 2, failed.stderr
    [sentence] = [line for line in failed.stderr.splitlines() if line.startswith("hf-ssl: ")]
    assert sentence.startswith("hf-ssl: The checkpoint of step 4 could not be written to")
    assert "checkpoint-2. Free some space and start the same command again with --resume." in sentence
    assert (tmp_path / "run/checkpoint-2/model.safetensors").read_bytes() == weights
    assert not (tmp_path / "run/checkpoint-4").exists()
    assert pretrain(tmp_path, "training.max_steps=4", "--resume").returncode == 0
    assert (tmp_path / "run/checkpoint-4").is_dir()

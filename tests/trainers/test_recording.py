from pathlib import Path

import pytest
import yaml

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.hub.sources import is_hub_name
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.recording import save_run_file
from hf_ssl.trainers.run import PreTrainingRun


def test_a_local_folder_is_not_taken_for_a_hub_name_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "birds").mkdir(parents=True)
    training = SSLTrainingArguments(output_dir="runs/first", learning_rate=1e-4)
    model = {"from_encoder": "facebook/dinov2-base"}
    save_run_file(tmp_path, PreTrainingRun("simclr", model, ImageDataArguments(path="data/birds"), training))
    run = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    assert run["data"]["path"] == "./data/birds"
    assert run["model"] == model
    assert run["training"] == {"output_dir": "runs/first", "learning_rate": 1e-4}
    assert "clustering" not in run
    monkeypatch.chdir("/")
    assert not is_hub_name(run["data"]["path"])
    assert is_hub_name(run["model"]["from_encoder"])

"""A Hub for each test, this process as its client, and the folder of a finished run to push."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import disable_progress_bars
from peft import LoraConfig, get_peft_model
from transformers import ViTForImageClassification, ViTImageProcessorPil, set_seed

from hf_ssl.hub.environment import save_environment
from tests import tiny_vision
from tests.hub_server import HubServer, serve
from tests.hub_store import WRITER


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve() as server:
        yield server


@pytest.fixture
def client(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    """The Hub, with this process as a client that has a token and does not wait between its retries."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once, with the endpoint of that moment
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    disable_progress_bars()
    return hub


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hf-ssl pretrain` leaves of a tiny SimCLR run, checkpoint to resume from included; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "simclr_tiny"
    model, _ = tiny_vision.simclr()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    for name in ("pretraining", "checkpoint-2"):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    model.export_encoder(folder / "encoder", processor)
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"pickle")
    (folder / "pretraining" / "training_args.bin").write_bytes(b"pickle")
    run = {
        "objective": "simclr",
        "model": {},
        "data": {"path": "sample:emoji", "name": None, "train_split": "train", "max_train_items": 64},
        "training": {"output_dir": "runs/simclr_tiny", "max_steps": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    (folder / "metrics.json").write_text('{"train_loss": 2.5}', encoding="utf-8")
    save_environment(folder, "hf-ssl pretrain simclr_tiny training.max_steps=2")
    return folder


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "simclr_tiny"))


@pytest.fixture
def adapter(run_dir: Path, tmp_path: Path) -> Path:
    """What `hf-ssl finetune` leaves: a LoRA adapter with its head on the run's encoder, the label map beside it."""
    set_seed(0)
    labels = dict(enumerate(("cat", "dog", "owl")))
    model = ViTForImageClassification.from_pretrained(run_dir / "encoder", id2label=labels)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    model.config.update({"finetuning_task": "image-classification", "architectures": ["ViTForImageClassification"]})
    model.config.save_pretrained(tmp_path / "adapter")
    for path in (run_dir / "encoder").glob("preprocessor_config.json"):
        shutil.copy(path, tmp_path / "adapter")
    return tmp_path / "adapter"

"""What was pushed is what loads: where hf_ssl is, and in a fresh process that cannot import it."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForPreTraining

from hf_ssl.hub.push import push_run
from hf_ssl.modeling.vision.simclr import SimCLRForPreTraining
from hf_ssl.trainers.finetuned import load_finetuned
from tests import tiny_vision
from tests.hub_server import HubServer

REPO, ADAPTER = "tester/simclr", "tester/adapter"

ELSEWHERE = f"""
import sys

class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "hf_ssl":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled)

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

pixel_values = load_file(sys.argv[1])["pixel_values"]
encoder = AutoModel.from_pretrained("{REPO}")
assert AutoImageProcessor.from_pretrained("{REPO}").size["height"] == 16

config = AutoConfig.from_pretrained("{ADAPTER}")
classifier = AutoModelForImageClassification.from_pretrained("{REPO}", config=config)
classifier.load_adapter("{ADAPTER}")
assert config.id2label == {{0: "cat", 1: "dog", 2: "owl"}}, config.id2label

with torch.no_grad():
    states = encoder(pixel_values, output_hidden_states=True).hidden_states
    logits = classifier.eval()(pixel_values).logits
assert not any(name.startswith("hf_ssl") for name in sys.modules)
save_file({{"hidden_states": torch.stack(states), "logits": logits}}, sys.argv[2])
"""


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_elsewhere(client: HubServer, run_dir: Path, adapter: Path, tmp_path: Path) -> None:
    model = SimCLRForPreTraining.from_pretrained(run_dir / "pretraining").encoder.eval()
    classifier, _ = load_finetuned(adapter)
    with torch.no_grad():
        hidden_states = torch.stack(model(images(), output_hidden_states=True).hidden_states)
        logits = classifier(images()).logits
    push_run(run_dir, REPO)
    push_run(adapter, ADAPTER, encoder=REPO)
    save_file({"pixel_values": images()}, tmp_path / "inputs.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors"],
        cwd=tmp_path,
        env={**os.environ, **client.environment(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    outputs = load_file(tmp_path / "outputs.safetensors")
    torch.testing.assert_close(outputs["hidden_states"], hidden_states, rtol=0, atol=0)
    torch.testing.assert_close(outputs["logits"], logits, rtol=0, atol=0)


def test_where_hf_ssl_is(client: HubServer, run_dir: Path, adapter: Path) -> None:
    push_run(run_dir, REPO)
    push_run(adapter, ADAPTER, encoder=REPO)
    pretrained = SimCLRForPreTraining.from_pretrained(REPO, subfolder="pretraining")
    for name, weight in tiny_vision.simclr()[0].state_dict().items():
        torch.testing.assert_close(pretrained.state_dict()[name], weight, rtol=0, atol=0)
    local, _ = load_finetuned(adapter)
    classifier, processor = load_finetuned(ADAPTER)
    assert classifier.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert processor.size["height"] == 16
    with torch.no_grad():
        torch.testing.assert_close(classifier(images()).logits, local(images()).logits, rtol=0, atol=0)


def test_transformers_own_push_to_hub(client: HubServer) -> None:
    model, _ = tiny_vision.simclr()
    model.push_to_hub("tester/own", private=True)
    model.push_to_hub("tester/own", private=True)  # once more, now that it exists
    repository = client.model("tester/own")
    assert repository.private
    assert {"config.json", "model.safetensors"} <= set(repository.head.files)
    for loaded in (
        SimCLRForPreTraining.from_pretrained("tester/own"),
        AutoModelForPreTraining.from_pretrained("tester/own"),
    ):
        assert type(loaded) is SimCLRForPreTraining
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)

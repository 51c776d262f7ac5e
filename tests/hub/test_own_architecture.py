"""An encoder that transformers does not have: its code travels with it, and it loads where hf_ssl is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from hf_ssl.errors import InputError
from hf_ssl.hub.card import write_card
from hf_ssl.hub.export import export_run
from hf_ssl.hub.push import push_run
from tests import tiny
from tests.hub_server import HubServer

REPO, CODE = "tester/data2vec2", "data2vec2_encoder.py"

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
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

encoder = AutoModel.from_pretrained("{REPO}", trust_remote_code=True)
assert type(encoder).__module__.startswith("transformers_modules.")
assert AutoFeatureExtractor.from_pretrained("{REPO}").sampling_rate == 8000
encoder.save_pretrained("again")
again = AutoModel.from_pretrained("again", trust_remote_code=True)
fresh = AutoModel.from_config(AutoConfig.from_pretrained("again", trust_remote_code=True), trust_remote_code=True)
assert fresh.encoder.alibi_scale.tolist() == [1.0, 1.0]

inputs = load_file(sys.argv[1])
with torch.no_grad():
    states = encoder(**inputs, output_hidden_states=True).hidden_states
    assert torch.equal(again(**inputs).last_hidden_state, states[-1])
assert not any(name.startswith("hf_ssl") for name in sys.modules)
save_file({{"hidden_states": torch.stack(states)}}, sys.argv[2])
"""


@pytest.fixture
def own_run(tmp_path: Path) -> Path:
    """What `hf-ssl pretrain` leaves of a tiny data2vec 2.0 run."""
    folder = tmp_path / "data2vec2_tiny"
    model, _ = tiny.data2vec2_audio()
    processor = Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
    model.save_pretrained(folder / "pretraining")
    processor.save_pretrained(folder / "pretraining")
    model.export_encoder(folder / "encoder", processor)
    data = {"path": "sample:speech", "name": None, "train_split": "train", "max_train_items": 64}
    run = {"objective": "data2vec2_audio", "model": {}, "data": data, "training": {}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    return folder


def test_where_hf_ssl_is_not(client: HubServer, own_run: Path, tmp_path: Path) -> None:
    model, batch = tiny.data2vec2_audio()
    inputs = {"input_values": batch["input_values"], "attention_mask": torch.ones(8, 8000, dtype=torch.long)}
    inputs["attention_mask"][1, 5000:] = 0
    with torch.no_grad():
        expected = torch.stack(model.eval().encoder(**inputs, output_hidden_states=True).hidden_states)
    push_run(own_run, REPO)
    save_file(inputs, tmp_path / "inputs.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors"],
        cwd=tmp_path,
        env={**os.environ, **client.environment(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "outputs.safetensors")["hidden_states"], expected)


def test_the_code_that_the_config_names_is_pushed_and_no_other(client: HubServer, own_run: Path) -> None:
    (own_run / "encoder" / "notes.py").write_text("print('private')\n", encoding="utf-8")
    pushed = push_run(own_run, REPO)
    files = client.model(REPO).head.files
    assert [name for name in files if name.endswith(".py")] == [CODE]
    assert files[CODE].data == (own_run / "encoder" / CODE).read_bytes()
    line = f'AutoModel.from_pretrained("{REPO}", trust_remote_code=True)'
    assert line in pushed.loading_lines
    assert line in files["README.md"].data.decode()


def test_a_token_in_the_code_is_found(client: HubServer, own_run: Path) -> None:
    with open(own_run / "encoder" / CODE, "a", encoding="utf-8") as code:
        code.write(f"TOKEN = 'hf_{'a' * 34}'\n")
    with pytest.raises(InputError, match=f"{CODE} contains an access token"):
        push_run(own_run, REPO)


def test_the_card_says_how_it_is_loaded(own_run: Path) -> None:
    card = write_card(own_run).read_text(encoding="utf-8")
    assert f"the code lies beside the weights (`{CODE}`)" in card
    assert 'AutoModel.from_pretrained("encoder", trust_remote_code=True)' in card


def test_export_and_load_where_hf_ssl_is(own_run: Path, tmp_path: Path) -> None:
    destination = export_run(own_run, tmp_path / "plain")
    assert (destination / CODE).is_file()
    encoder = AutoModel.from_pretrained(destination)  # without trust: the installed class is used
    assert type(encoder).__module__ == "hf_ssl.modeling.speech.data2vec2_encoder"

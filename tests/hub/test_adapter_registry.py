"""A registry of adapters on disk: what goes in, what is refused, and what a killed write leaves."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.hub.adapter_registry import AdapterRegistry
from hf_ssl.hub.push import push_run
from hf_ssl.trainers.finetuned import load_finetuned
from hf_ssl.tuners.fingerprint import fingerprint
from hf_ssl.tuners.mixed import MixedAdapters
from tests.hub_server import HubServer
from tests.tuners.mixed.stored import save_adapter, save_encoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `encoder` and adapters of it, `spam` and `topic`; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    save_encoder(folder / "encoder", "bert")
    save_adapter(folder / "spam", folder / "encoder", "bert", 2)
    save_adapter(folder / "topic", folder / "encoder", "bert", 4, r=3)
    (folder / "spam" / "training_args.bin").write_bytes(b"pickle")
    (folder / "spam" / "trainer_state.json").write_text("{}")
    (folder / "spam" / "checkpoint-1").mkdir()
    return folder


@pytest.fixture
def registry(trained: Path, tmp_path: Path) -> AdapterRegistry:
    registry = AdapterRegistry(tmp_path / "registry")
    registry.add(trained / "spam")
    registry.add(trained / "topic")
    return registry


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_is_there(registry: AdapterRegistry, trained: Path) -> None:
    assert list(registry) == ["spam", "topic"]
    assert dict(registry) == {name: registry.path / name for name in ("spam", "topic")}
    assert "spam" in registry
    assert "." not in registry
    assert "../trained" not in registry
    assert set(os.listdir(registry["spam"])) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "manifest.json",
        "README.md",
    }
    facts = registry.facts("topic")
    assert (facts.kind, facts.model_class) == ("LORA", "BertForSequenceClassification")
    assert facts.label_names == ("topic 0", "topic 1", "topic 2", "topic 3")
    assert facts.encoder == str(trained / "encoder")
    assert facts.num_bytes == (trained / "topic" / "adapter_model.safetensors").stat().st_size
    # A and B of query and value in two layers, pooler, classifier
    assert facts.num_parameters == 2 * 2 * 2 * 3 * 16 + (16 * 16 + 16) + (4 * 16 + 4)
    registry.remove("topic")
    assert list(AdapterRegistry(registry.path)) == ["spam"]
    assert not (registry.path / "topic").exists()


@torch.no_grad()
def test_loading_from_it(registry: AdapterRegistry) -> None:
    mixed = MixedAdapters.load(registry, ["topic", "spam"])
    assert mixed.names == ("topic", "spam")
    assert MixedAdapters.load(registry).names == ("spam", "topic")
    tokens = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    output = mixed(input_ids=tokens, adapters=["spam", "topic"])
    with pytest.raises(InputError, match="was not written by `hf-ssl finetune`"):
        load_finetuned(registry["spam"])  # these were saved by PEFT alone; see tests/cli
    assert [len(logits) for logits in output.logits] == [2, 4]
    with pytest.raises(InputError, match="There is no adapter 'topics'; did you mean 'topic'"):
        MixedAdapters.load(registry, ["topics"])
    with pytest.raises(InputError, match=r"There is no adapter 'topics'; did you mean 'topic'"):
        registry["topics"]
    with pytest.raises(InputError, match="is empty"):
        AdapterRegistry(registry.path / "nothing")["spam"]


@pytest.mark.parametrize(
    "name", ["", ".hidden", "..", "a..b", "a/b", "../spam", "/tmp/spam", "a\\b", "x" * 97, "é", "a\n"]
)
def test_unsafe_names(registry: AdapterRegistry, trained: Path, name: str) -> None:
    before = snapshot(registry.path.parent)
    with pytest.raises(InputError, match="cannot be an adapter's name; give one of letters"):
        registry.add(trained / "spam", name)
    assert name not in registry
    with pytest.raises(InputError, match="There is no adapter"):
        registry.remove(name)
    assert snapshot(registry.path.parent) == before


def test_nothing_is_overwritten_unless_asked(registry: AdapterRegistry, trained: Path) -> None:
    before = snapshot(registry.path)
    with pytest.raises(InputError, match="has an adapter 'spam' already; choose another name, or overwrite it"):
        registry.add(trained / "topic", "spam")
    assert snapshot(registry.path) == before
    registry.add(trained / "topic", "spam", overwrite=True)
    assert len(registry.facts("spam").label_names) == 4
    assert {name: data for name, data in snapshot(registry.path).items() if name.startswith("topic")} == {
        name: data for name, data in before.items() if name.startswith("topic")
    }


def broken_file(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")


def missing_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def dora(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_file, "adapter_model.safetensors of the adapter .* cannot be read"),
        (missing_file, "has no config.json"),
        (dora, "use_dora=True"),
    ],
)
def test_bad_input_loses_nothing(
    registry: AdapterRegistry, trained: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    before = snapshot(registry.path)
    source = Path(shutil.copytree(trained / "topic", tmp_path / "bad"))
    spoil(source)
    for name in ("spam", "bad"):
        with pytest.raises(InputError, match=message):
            registry.add(source, name, overwrite=True)
    assert snapshot(registry.path) == before
    assert sorted(os.listdir(registry.path)) == [".lock", "spam", "topic"]


def test_altered_files_are_found(registry: AdapterRegistry) -> None:
    weights = registry["spam"] / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # one bit of the last weight
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"adapter_model.safetensors of the adapter 'spam' was changed since it was"):
        MixedAdapters.load(registry)
    with pytest.raises(InputError, match="was changed since"):
        registry.facts("spam")
    assert MixedAdapters.load(registry, ["topic"]).names == ("topic",)
    (registry["topic"] / "README.md").unlink()
    with pytest.raises(InputError, match="README.md of the adapter 'topic' is missing since it was added"):
        registry.facts("topic")


def test_a_lost_manifest(registry: AdapterRegistry, trained: Path) -> None:
    (registry["spam"] / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"'spam' has no manifest\.json in .*; remove it, and add it again"):
        registry.facts("spam")
    with pytest.raises(InputError, match="'spam' has no manifest"):
        registry.add(trained / "topic", "third")  # whether it is of the same encoder cannot be told
    registry.remove("spam")
    registry.add(trained / "spam")
    assert registry.facts("spam").kind == "LORA"


def test_the_encoder_that_an_adapter_was_trained_on(registry: AdapterRegistry, trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "spam", tmp_path / "spam"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="'other' was trained on another encoder than .*: of that architecture"):
        registry.add(folder, "other")
    config["encoder_fingerprint"] = fingerprint(AutoModel.from_pretrained(trained / "encoder"))
    (folder / "config.json").write_text(json.dumps(config))
    registry.add(folder, "other")


def test_one_encoder_for_all(registry: AdapterRegistry, trained: Path, tmp_path: Path) -> None:
    """By its weights, not by its name."""
    other = Path(shutil.copytree(trained / "encoder", tmp_path / "other"))
    save_adapter(tmp_path / "same", other, "bert", 3)
    registry.add(tmp_path / "same")
    encoder = AutoModel.from_pretrained(other)
    with torch.no_grad():
        encoder.encoder.layer[0].output.dense.bias[0] += 1e-3
    encoder.save_pretrained(other)
    before = snapshot(registry.path)
    with pytest.raises(InputError, match="'far' belongs to the encoder .*other, and those in .*registry to .*encoder"):
        registry.add(tmp_path / "same", "far")
    assert snapshot(registry.path) == before
    # It changed under the adapter that stands on it, too.
    with pytest.raises(InputError, match="other is not the encoder that the adapter 'same' was added with"):
        MixedAdapters.load(registry, ["same"])
    assert MixedAdapters.load(registry, ["spam", "same"]).names == ("spam", "same")  # on the first one's
    lone = AdapterRegistry(tmp_path / "lone")
    lone.add(tmp_path / "same")
    lone.add(tmp_path / "same", overwrite=True)
    shutil.copytree(trained / "encoder", other, dirs_exist_ok=True)
    lone.add(tmp_path / "same", overwrite=True)  # the only one may change its encoder


def test_an_encoder_that_was_moved(registry: AdapterRegistry, trained: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(trained / "encoder", tmp_path / "moved"))
    save_adapter(tmp_path / "lost", moved, "bert", 3)
    moved.rename(tmp_path / "here")
    with pytest.raises(InputError, match="which cannot be loaded"):
        registry.add(tmp_path / "lost")
    registry.add(tmp_path / "lost", encoder=tmp_path / "here")
    assert registry.facts("lost").encoder == str(tmp_path / "here")
    assert MixedAdapters.load(registry, ["lost"]).names == ("lost",)


def killed_at_rename(number: int, write: Callable[[], object]) -> None:
    """Do it in another process that ends before its n-th rename, as if it was killed there."""
    child = os.fork()
    if child == 0:
        renames, rename = 0, os.rename

        def last(*args: Path) -> None:
            nonlocal renames
            renames += 1
            if renames == number:
                os._exit(9)
            rename(*args)

        os.rename = last  # type: ignore[assignment]
        write()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_overwrite(registry: AdapterRegistry, trained: Path, number: int) -> None:
    before = snapshot(registry.path)
    killed_at_rename(number, lambda: registry.add(trained / "topic", "spam", overwrite=True))
    assert snapshot(registry.path) != before
    again = AdapterRegistry(registry.path)
    assert list(again) == ["spam", "topic"]
    assert len(again.facts("spam").label_names) == 2
    again.add(trained / "topic", "third")
    assert {name: data for name, data in snapshot(registry.path).items() if not name.startswith("third")} == before
    assert sorted(os.listdir(registry.path)) == [".lock", "spam", "third", "topic"]


def test_a_killed_add_or_remove(registry: AdapterRegistry, trained: Path) -> None:
    killed_at_rename(1, lambda: registry.add(trained / "topic", "new"))
    assert list(registry) == ["spam", "topic"]
    killed_at_rename(1, lambda: registry.remove("spam"))
    assert list(registry) == ["spam", "topic"]
    registry.remove("spam")
    assert sorted(os.listdir(registry.path)) == [".lock", "topic"]


def test_a_full_disk(registry: AdapterRegistry, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(registry.path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="could not be written .*No space left on device"):
        registry.add(trained / "topic", "spam", overwrite=True)
    assert snapshot(registry.path) == before


def test_from_the_hub(client: HubServer, run_dir: Path, adapter: Path, tmp_path: Path) -> None:
    push_run(run_dir, "tester/simclr")
    push_run(adapter, "tester/birds", encoder="tester/simclr")
    registry = AdapterRegistry(tmp_path / "registry")
    registry.add("tester/birds")
    assert registry.facts("birds").encoder == "tester/simclr"
    assert "preprocessor_config.json" in os.listdir(registry["birds"])
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model, _ = load_finetuned(registry["birds"])
    with torch.no_grad():
        output = MixedAdapters.load(registry)(pixel_values=images, adapters=["birds", None])
        torch.testing.assert_close(output.logits[0], model(images).logits[0], rtol=0, atol=1e-5)
    assert output.labels[0] in ("cat", "dog", "owl")
    with pytest.raises(InputError, match="tester/cats is no folder, and no adapter could be fetched from the Hub"):
        registry.add("tester/cats")


def test_a_file_is_no_registry(trained: Path) -> None:
    with pytest.raises(InputError, match="config.json is a file; give the folder of a registry"):
        AdapterRegistry(trained / "spam" / "config.json")

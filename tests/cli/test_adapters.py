"""`hf-ssl adapters` as it is typed, on what `hf-ssl finetune` leaves."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from hf_ssl.cli.main import main
from hf_ssl.hub.adapter_registry import AdapterRegistry
from hf_ssl.trainers.finetuned import load_finetuned
from hf_ssl.tuners.mixed import MixedAdapters
from tests.tiny_encoders import save_image_encoder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fine-tuning runs on one encoder, LoRA for 9 categories and bottleneck adapters for all subcategories."""
    folder = tmp_path_factory.mktemp("runs")
    encoder = save_image_encoder(folder / "encoder")
    for name, tuner in (("category", "lora"), ("subcategory", "houlsby")):
        settings = [
            *(f"model.encoder={encoder}", "model.task=image-classification", f"model.tuner={tuner}"),
            *("data.path=sample:emoji", f"data.label_column={name}", "data.max_train_items=32"),
            *(f"training.output_dir={folder / name}", "training.max_steps=1", "training.use_cpu=true"),
            *("data.validation_split=null", "data.test_split=null", "training.learning_rate=0.01"),
        ]
        assert main(["finetune", *settings]) == 0
    return folder


def test_a_registry_from_the_first_adapter_to_the_last(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = str(tmp_path / "registry")
    capsys.readouterr()
    assert main(["adapters", "list", registry]) == 2
    assert capsys.readouterr().err == (
        f"hf-ssl: There is no registry {registry}; `hf-ssl adapters add {registry} ...` makes one.\n"
    )
    assert main(["adapters", "add", registry, str(runs / "category")]) == 0
    assert capsys.readouterr().out == f"category is in {registry}: 9 classes, on {runs / 'encoder'}.\n"
    assert main(["adapters", "add", registry, str(runs / "subcategory"), "--name", "other"]) == 0
    assert main(["adapters", "add", registry, str(runs / "subcategory"), "--name", "other"]) == 2
    assert "has an adapter 'other' already" in capsys.readouterr().err
    assert main(["adapters", "add", registry, str(runs / "category"), "--name", "other", "--overwrite"]) == 0

    capsys.readouterr()
    assert main(["adapters", "list", registry]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [re.split(r" *\| *", line)[1] for line in table] == ["adapter", "---", "category", "other"]
    assert f"| LORA | ViTForImageClassification | 9 | 2,345 | 0.01 MB | {runs / 'encoder'} |" in table[2]

    (AdapterRegistry(registry)["other"] / "adapter_model.safetensors").unlink()
    assert main(["adapters", "list", registry]) == 2
    printed = capsys.readouterr()
    assert "| category |" in printed.out
    assert "| other |" not in printed.out
    assert "'other' has no adapter_model.safetensors" in printed.err

    assert main(["adapters", "remove", registry, "category", "othr"]) == 2
    assert "There is no adapter 'othr'; did you mean 'other'?" in capsys.readouterr().err
    assert main(["adapters", "remove", registry, "category", "other"]) == 0
    assert main(["adapters", "list", registry]) == 0
    assert f"The registry {registry} is empty." in capsys.readouterr().out


@torch.no_grad()
def test_what_was_fine_tuned_is_what_is_mixed(runs: Path, tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path / "registry")
    for name in ("category", "subcategory"):
        assert main(["adapters", "add", str(registry.path), str(runs / name)]) == 0
    shutil.copytree(registry.path, tmp_path / "elsewhere")  # a registry may be moved
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for there in (registry, AdapterRegistry(tmp_path / "elsewhere")):
        output = MixedAdapters.load(there)(pixel_values=images, adapters=["subcategory", None, "category"])
        for row, name in ((0, "subcategory"), (2, "category")):
            model, _ = load_finetuned(there[name])
            expected = model(images[row : row + 1]).logits[0]
            torch.testing.assert_close(output.logits[row], expected, rtol=0, atol=1e-5)
            assert output.labels[row] == model.config.id2label[int(expected.argmax())]


@pytest.mark.parametrize("action", ["list", "add", "remove"])
def test_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["adapters", "--help"])
    assert f"hf-ssl adapters {action}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["adapters", action, "--help"])
    assert "REGISTRY" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["adapters"])

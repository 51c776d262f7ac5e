"""A pretraining checkpoint becomes a plain encoder, and nothing else does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

from hf_ssl.errors import InputError
from hf_ssl.hub.export import export_run
from tests import tiny_vision


@pytest.mark.parametrize("source", ["checkpoint-2", "pretraining", "."])
def test_from_each_folder_of_a_run(run_dir: Path, tmp_path: Path, source: str) -> None:
    destination = export_run(run_dir / source, tmp_path / "plain")
    model, _ = tiny_vision.simclr()
    encoder = AutoModel.from_pretrained(destination, add_pooling_layer=False)
    assert encoder.state_dict().keys() == model.encoder.state_dict().keys()
    for name, weight in model.encoder.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[name], weight, rtol=0, atol=0)
    assert AutoImageProcessor.from_pretrained(destination).size["height"] == 16
    assert not list(tmp_path.glob("*.partial"))


def test_without_a_preprocessor(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "pretraining" / "preprocessor_config.json").unlink()
    destination = export_run(run_dir, tmp_path / "plain")
    assert sorted(path.name for path in destination.iterdir()) == ["config.json", "model.safetensors"]


def test_what_is_no_pretraining_checkpoint_is_named(run_dir: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"encoder is a 'vit' checkpoint \(ViTModel\), not one of hf_ssl's pretraining"
    ):
        export_run(run_dir / "encoder", tmp_path / "plain")
    with pytest.raises(InputError, match=r"adapter is a 'vit' checkpoint \(ViTForImageClassification\)"):
        export_run(adapter, tmp_path / "plain")
    with pytest.raises(InputError, match=r"There is no checkpoint in .*nothing"):
        export_run(tmp_path / "nothing", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_nothing_is_written_over(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoder already exists"):
        export_run(run_dir, run_dir / "encoder")
    (tmp_path / "empty").mkdir()
    assert export_run(run_dir, tmp_path / "empty") == tmp_path / "empty"


def test_a_disk_that_is_full_leaves_no_half_of_an_encoder(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: object, path: Path, processor: object) -> None:
        path.mkdir()
        (path / "config.json").write_text("{}", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_ssl.modeling.blocks.pretrained.SSLPreTrainedModel.export_encoder", no_space)
    with pytest.raises(InputError, match=r"could not be written .*No space left on device"):
        export_run(run_dir, tmp_path / "plain")
    assert not list(tmp_path.glob("plain*"))

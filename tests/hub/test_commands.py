"""`hf-ssl push` and `hf-ssl export` as they are typed."""

from pathlib import Path

import pytest

from hf_ssl.cli.main import main
from tests.hub_server import HubServer
from tests.hub_store import STRANGER

REPO = "tester/simclr"


def test_push(client: HubServer, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run_dir), REPO, "--message", "First try"]) == 0
    repository = client.model(REPO)
    assert repository.private
    assert repository.head.title == "First try"
    assert capsys.readouterr().out == (
        f"Pushed to {client.url}/{REPO} (private). To load it:\n\n"
        "from transformers import AutoImageProcessor, AutoModel\n"
        f'processor = AutoImageProcessor.from_pretrained("{REPO}")\n'
        f'encoder = AutoModel.from_pretrained("{REPO}")\n'
    )


def test_push_in_public(client: HubServer, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run_dir), REPO, "--public"]) == 0
    assert not client.model(REPO).private
    assert "(public)" in capsys.readouterr().out


def test_push_of_an_adapter(client: HubServer, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(adapter), "tester/adapter"]) == 2
    assert "--encoder user/name" in capsys.readouterr().err
    assert main(["push", str(adapter), "tester/adapter", "--encoder", REPO]) == 0
    assert 'load_finetuned("tester/adapter")' in capsys.readouterr().out


def test_a_failed_push_is_one_sentence_and_code_2(
    client: HubServer, run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.fault("POST", "/commit/", drop="request")
    assert main(["push", str(run_dir), REPO]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"hf-ssl: The connection to {client.url} failed or broke off")
    assert printed.err.endswith(f"{REPO}, which was created for this push, was removed again.\n")
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert main(["push", str(run_dir), REPO]) == 2
    assert "may not write tester/simclr" in capsys.readouterr().err
    assert client.store.repositories == {}


def test_export(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    destination = tmp_path / "plain"
    assert main(["export", str(run_dir / "checkpoint-2"), str(destination)]) == 0
    assert (destination / "model.safetensors").is_file()
    assert f'AutoModel.from_pretrained("{destination}")' in capsys.readouterr().out
    assert main(["export", str(run_dir / "encoder"), str(tmp_path / "other")]) == 2
    assert "is a 'vit' checkpoint (ViTModel)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["push", "export"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"hf-ssl {command} runs/simclr_emoji" in capsys.readouterr().out

"""`hf-ssl convert`: there and back by the command line, and what it says."""

from pathlib import Path

import pytest
import torch
from transformers import HubertForCTC, pipeline

from hf_ssl.cli.main import main
from hf_ssl.hub.conversion.reading import read_checkpoint
from tests.hub.conversion.fairseq_models import save_fine_tuned, save_pretrained


def test_to_transformers_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_pretrained(tmp_path / "hubert.pt", "hubert")
    folder, back = tmp_path / "converted", tmp_path / "back.pt"
    assert main(["convert", str(source), "--to", "transformers", "--output", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folder} holds a HubertModel.",
        "Kept beside it, in fairseq.safetensors, since the class has no place for it: final_proj.bias, "
        "final_proj.weight, label_embs_concat.",
        "Not converted: optimizer_history, extra_state, last_optimizer_state.",
    ]
    assert main(["convert", str(folder), "--to", "fairseq", "--output", str(back)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{back} holds a checkpoint of fairseq's hubert."]
    before, after = read_checkpoint(source), read_checkpoint(back)
    assert before.settings == after.settings
    assert all(torch.equal(weight, after.weights[name]) for name, weight in before.weights.items())


def test_ctc_recognises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = save_fine_tuned(tmp_path / "ctc.pt", "hubert"), tmp_path / "converted"
    command = ["convert", str(source), "--to", "transformers", "--output", str(folder)]
    assert main(command) == 2
    assert "give fairseq's dict.<labels>.txt with --dictionary" in capsys.readouterr().err
    assert main([*command, "--dictionary", str(tmp_path / "dict.ltr.txt")]) == 0
    assert "HubertForCTC" in capsys.readouterr().out
    recognise = pipeline("automatic-speech-recognition", model=str(folder))
    waveform = torch.randn(4000, generator=torch.Generator().manual_seed(0)).numpy()
    text = recognise(waveform)["text"]
    assert text
    assert set(text) <= set(" ETAO'")
    model = HubertForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        assert model(torch.from_numpy(waveform)[None]).logits.shape[-1] == 10


def test_to_an_objective_and_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = save_pretrained(tmp_path / "d2v.pt", "data2vec"), tmp_path / "converted"
    assert main(["convert", str(source), "--to", "hf_ssl", "--output", str(folder)]) == 0
    assert "holds a Data2VecAudioForPreTraining" in capsys.readouterr().out
    assert main(["export", str(folder), str(tmp_path / "encoder")]) == 0
    assert (tmp_path / "encoder" / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.pt", "--to", "transformers"], "There is no file gone.pt"),
        (["gone", "--to", "fairseq"], "There is no checkpoint in gone"),
        (["gone", "--to", "fairseq", "--dictionary", "d"], "leave --dictionary out"),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *arguments, "--output", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_help_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["convert", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("--to", "--output", "--dictionary", "examples:", "Wav2Vec2ForPreTraining", "refused"):
        assert word in text

"""`hf-ssl convert`: there and back by the command line, and what it says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, HubertForCTC, pipeline

from hf_ssl.cli.main import main
from hf_ssl.hub.conversion.reading import read_checkpoint
from tests.hub.conversion.fairseq_models import save_fine_tuned, save_pretrained
from tests.hub.conversion.images.published import dino, moco, save_resnet, save_vit


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


def test_image_backbone_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder, back = save_vit(tmp_path / "dino.pth", dino), tmp_path / "converted", tmp_path / "back.pth"
    assert main(["convert", str(source), "--to", "transformers", "--output", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folder} holds a ViTModel, read as DINO.",
        "Not converted: args, dino_loss, epoch, head, optimizer, student.",
        "Assumed, since the file does not say it: 2 attention heads (of 64 channels).",
        "Assumed, since the file does not say it: images resized to 18 and cropped to 16 pixels (bicubic), normalised "
        "with ImageNet's mean and deviation.",
    ]
    assert main(["convert", str(folder), "--to", "timm", "--output", str(back)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{back} holds the state dict of timm.models.VisionTransformer(img_size=16, patch_size=4,")
    teacher, again = torch.load(source, weights_only=False)["teacher"], torch.load(back, weights_only=True)
    assert all(torch.equal(weight, teacher[f"backbone.{name}"]) for name, weight in again.items())


def test_image_backbone_of_a_named_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = save_vit(tmp_path / "vit.pth"), tmp_path / "converted"
    command = ["convert", str(source), "--to", "transformers", "--output", str(folder), "--from", "moco_v3"]
    assert main([*command, "--num-attention-heads", "4"]) == 0
    said = capsys.readouterr().out
    assert "a ViTModel, read as MoCo v3" in said
    assert "heads" not in said
    assert AutoConfig.from_pretrained(folder).num_attention_heads == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "hf_ssl"], "Of the image checkpoint"),
        (["--to", "transformers", "--dictionary", "d"], "without --dictionary"),
        (["--to", "transformers", "--from", "dino"], "holds no backbone of DINO (teacher.backbone.*"),
        (["--to", "transformers", "--from", "fairseq"], "is no checkpoint of fairseq"),
        (["--to", "transformers", "--num-attention-heads", "2"], "A ResNet has no attention"),
        (["--to", "timm", "--from", "moco"], "leave --from and --num-attention-heads out"),
        (["--to", "fairseq", "--num-attention-heads", "2"], "leave --from and --num-attention-heads out"),
    ],
)
def test_options_that_do_not_fit_an_image_backbone(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_resnet(tmp_path / "moco.pth", moco)
    assert main(["convert", str(source), *options, "--output", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_heads_are_not_asked_of_fairseq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_pretrained(tmp_path / "hubert.pt", "hubert")
    command = ["convert", str(source), "--to", "transformers", "--output", str(tmp_path / "new")]
    assert main([*command, "--num-attention-heads", "2"]) == 2
    assert "fairseq's checkpoints say how many heads" in capsys.readouterr().err


def test_file_of_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"layers.0.weight": torch.ones(2)}}, tmp_path / "swin.pth")
    command = ["convert", str(tmp_path / "swin.pth"), "--to", "transformers", "--output", str(tmp_path / "new")]
    assert main(command) == 2
    assert "neither a torchvision ResNet nor a timm ViT, but model.layers" in capsys.readouterr().err


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
    for word in (
        "--to",
        "--output",
        "--dictionary",
        "examples:",
        "Wav2Vec2ForPreTraining",
        "refused",
        "--from",
        "solo-learn",
    ):
        assert word in text

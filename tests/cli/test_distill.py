"""`hf-ssl distill` and `hf-ssl prune`."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForMaskedLM, BertConfig, HubertConfig

from hf_ssl.cli.distill import read_distillation
from hf_ssl.cli.main import main
from hf_ssl.cli.run_file import read_run
from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.errors import InputError
from hf_ssl.hub.card import read_objective_card
from hf_ssl.modeling import DISTILLATION
from hf_ssl.modeling.distillation.config import DistillationConfig
from hf_ssl.modeling.distillation.layers import layers_of_student, smaller_config
from hf_ssl.trainers.distillation import check_model_section
from tests.families import BERT
from tests.tiny_encoders import save_image_encoder, save_speech_encoder

SECTIONS = {"hubert": SpeechDataArguments, "bert": TextDataArguments, "resnet": ImageDataArguments}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    AutoModelForMaskedLM.from_config(BertConfig(**BERT)).save_pretrained(folder / "bert")
    save_speech_encoder(folder / "hubert")
    save_image_encoder(folder / "vit")
    (folder / "resnet").mkdir()
    (folder / "resnet" / "config.json").write_text('{"model_type": "resnet"}')
    return {name: folder / name for name in ("bert", "hubert", "vit", "resnet")}


@pytest.mark.parametrize("recipe", DISTILLATION.recipes)
def test_every_recipe_can_be_used(recipe: str, teachers) -> None:
    kind = "hubert" if "hubert" in recipe else "resnet" if "emoji" in recipe else "bert"
    run = read_distillation(
        recipe, [f"model.teacher={teachers[kind]}", "training.use_cpu=true", "training.bf16=false"]
    )
    check_model_section(run.model)
    assert run.objective == DISTILLATION.title
    assert isinstance(run.data, SECTIONS[kind])
    assert str(run.training.output_dir) == f"runs/{recipe}"


@pytest.mark.parametrize("recipe", DISTILLATION.recipes[:5])
def test_the_papers_students_fit_their_teachers(recipe: str) -> None:
    model = read_run(recipe, (), ("model", "data", "training"))["model"]
    teacher = HubertConfig() if recipe == "distil_hubert" else BertConfig()
    fields = {name: value for name, value in model.items() if name not in ("teacher", "student")}
    layers = layers_of_student(teacher, model["student"], model.get("initial_layers", "every_other"))
    student = smaller_config(teacher, model["student"], layers)
    config = DistillationConfig(encoder_config=student, teacher_config=teacher, mask_token_id=103, **fields)
    assert config.losses == model["losses"]
    assert config.encoder_config.num_hidden_layers == len(layers) < 12


def test_the_card_has_what_a_runs_card_needs() -> None:
    pieces = read_objective_card(DISTILLATION)
    assert {"idea", "equation", "paper", "limits", "citation"} <= {title for title, text in pieces.items() if text}


def test_texts_are_no_pairs_unless_asked(teachers) -> None:
    overrides = [f"model.teacher={teachers['bert']}", "data.path=texts", "training.use_cpu=true"]
    assert read_distillation(None, overrides).data.next_sentence is False
    assert read_distillation(None, [*overrides, "data.next_sentence=true"]).data.next_sentence is True


def test_a_loss_of_the_recipe_can_be_left_out(teachers) -> None:
    settings = [f"model.teacher={teachers['bert']}", "training.use_cpu=true", "training.bf16=false"]
    run = read_distillation("distil_bert", [*settings, "model.losses.mlm=null"])
    assert run.model["losses"] == {"logits": 5.0, "cosine": 1.0}


def test_a_run_from_the_command_line(teachers, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        code = main(
            [
                *("distill", f"model.teacher={teachers['vit']}", "model.student.num_hidden_layers=1"),
                *("data.path=sample:emoji", "data.image_size=32", "data.max_train_items=16"),
                *("training.max_steps=1", "training.use_cpu=true", f"training.output_dir={tmp_path}"),
                *("training.report_to=none", "training.per_device_train_batch_size=4"),
            ]
        )
    assert code == 0
    assert "The student starts from the teacher's layers [0]; 0 of its" in caplog.text
    assert f"The encoder is in {tmp_path / 'encoder'}. To load it" in caplog.text
    assert main(["distill", "data.path=sample:emoji"]) == 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "The run names no teacher; add model.teacher="),
        (["model.teacher=nowhere"], "No encoder can be loaded from nowhere"),
        (["model.teacher=nowhere", "model.losses.logits=1"], "The encoder nowhere cannot be loaded"),
        (["objective=simclr"], "is a run of the objective 'simclr'; start it with `hf-ssl pretrain`"),
        (["modell.teacher=x"], "There is no top-level key of a run file 'modell'; did you mean 'model'?"),
    ],
)
def test_mistakes_name_the_remedy(overrides: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        read_distillation(None, overrides)
    assert sentence in str(error.value)


def test_the_folder_of_a_run_is_not_a_teacher(teachers, tmp_path: Path) -> None:
    (tmp_path / "encoder").symlink_to(teachers["bert"])
    with pytest.raises(InputError, match="is the folder of a run; give its encoder"):
        read_distillation(None, [f"model.teacher={tmp_path}"])
    with pytest.raises(InputError, match="the losses logits and mlm read its head: give .*pretraining"):
        read_distillation(None, [f"model.teacher={tmp_path}", "model.losses.logits=1"])


def test_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save_image_encoder(tmp_path / "vit")
    assert main(["prune", str(teacher), "--keep", "1", "--output", str(tmp_path / "one")]) == 0
    assert "The encoder with the layers [1] of 0 … 1 is in" in capsys.readouterr().out
    whole, pruned = AutoModel.from_pretrained(teacher), AutoModel.from_pretrained(tmp_path / "one")
    assert pruned.config.num_hidden_layers == 1
    assert torch.equal(pruned.layers[0].mlp.fc1.weight, whole.layers[1].mlp.fc1.weight)
    assert AutoImageProcessor.from_pretrained(tmp_path / "one", backend="pil").size["height"] == 32
    assert main(["prune", str(teacher), "--keep", "every_other", "--output", str(tmp_path / "other")]) == 0
    assert "the layers [0] of 0 … 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        ("0,2", "The layers to keep are [0, 2]; give some of 0 … 1"),
        ("all", "--keep is 'all'; give every_other, or layers with commas between them"),
    ],
)
def test_prune_refuses(keep: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save_image_encoder(tmp_path / "vit")
    assert main(["prune", str(teacher), "--keep", keep, "--output", str(tmp_path / "pruned")]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["prune", str(teacher), "--keep", "0", "--output", str(teacher)]) == 2
    assert "already exists; choose another folder" in capsys.readouterr().err

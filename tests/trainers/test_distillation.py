"""Whole distillation runs on the embedded data, from tiny teachers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, set_seed

from hf_ssl.cli.distill import read_distillation
from hf_ssl.errors import InputError
from hf_ssl.hub.export import export_run
from hf_ssl.modeling.distillation.student import DistillationModel
from hf_ssl.trainers.distillation import distill
from tests.tiny_encoders import TRANSFORMER, save_image_encoder, save_speech_encoder, save_text_encoder

TEXTS = ["data.path=sample:glosses", "data.sentences=lines", "data.max_length=32"]
DATA = {
    "text": TEXTS,
    "speech": ["data.path=sample:speech", "data.sampling_rate=8000", "data.max_seconds=1"],
    "vision": ["data.path=sample:emoji", "data.image_size=32", "data.augmentation=simclr_small"],
}
LOSSES = {
    "text": ["model.losses.logits=5", "model.losses.mlm=2", "model.losses.cosine=1", "model.mlm_probability=0.15"],
    "speech": ["model.losses.layer_prediction=1"],
    "vision": ["model.losses.relations=1", "model.losses.attention_scores=1"],
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    save_text_encoder(folder / "tokenizer")
    set_seed(0)
    # With dropout, so that a resumed run must go on with the same random numbers.
    texts = AutoModelForMaskedLM.from_config(BertConfig(**TRANSFORMER, vocab_size=500, max_position_embeddings=64))
    texts.save_pretrained(folder / "text")
    for file in (folder / "tokenizer").glob("tokenizer*"):
        shutil.copy(file, folder / "text")
    save_speech_encoder(folder / "speech")
    save_image_encoder(folder / "vision")
    (folder / "speech" / "preprocessor_config.json").write_text(
        (folder / "speech" / "preprocessor_config.json").read_text().replace("16000", "8000")
    )
    return {modality: folder / modality for modality in DATA}


def command(teachers: dict[str, Path], modality: str, output: Path, *more: str) -> list[str]:
    return [
        f"model.teacher={teachers[modality]}",
        "model.student.num_hidden_layers=1",
        *LOSSES[modality],
        *DATA[modality],
        "data.max_train_items=32",
        f"training.output_dir={output}",
        "training.max_steps=4",
        "training.save_steps=2",
        "training.logging_steps=1",
        "training.per_device_train_batch_size=4",
        "training.learning_rate=1e-3",
        "training.use_cpu=true",
        "training.report_to=none",
        *more,
    ]


def run(overrides: list[str], resume: bool = False) -> Path:
    return distill(read_distillation(None, overrides), command="hf-ssl distill ...", resume=resume)


@pytest.mark.parametrize("modality", DATA)
def test_a_run_leaves_what_a_pretraining_leaves(teachers, modality: str, tmp_path: Path) -> None:
    overrides = command(teachers, modality, tmp_path / "out")
    output = run(overrides)
    assert {path.name for path in output.iterdir()} >= {
        *("encoder", "pretraining", "checkpoint-2", "checkpoint-4"),
        *("run.yaml", "metrics.json", "README.md", "environment.json"),
    }
    plain = AutoModel.from_pretrained(output / "encoder")
    assert type(plain).__module__.startswith("transformers.")
    assert plain.config.num_hidden_layers == 1
    metrics = json.loads((output / "metrics.json").read_text())
    assert all(f"loss_{name.split('.')[2].split('=')[0]}" in metrics for name in LOSSES[modality] if "losses" in name)
    card = (output / "README.md").read_text()
    assert f"A {modality} encoder pretrained without labels by distillation" in card
    assert f"The teacher was `{modality}`" in card
    saved = yaml.safe_load((output / "run.yaml").read_text())
    assert saved["model"]["teacher"] == str(teachers[modality])
    names = {name.split(".")[0] for name in load_file(output / "checkpoint-4" / "model.safetensors")}
    assert names <= {"encoder", "terms", "head"}
    again = read_distillation(str(output / "run.yaml"), [])
    assert again.model == read_distillation(None, overrides).model

    export_run(output / "checkpoint-2", tmp_path / "exported")
    exported = AutoModel.from_pretrained(tmp_path / "exported").state_dict()
    step_2 = DistillationModel.from_pretrained(output / "checkpoint-2").encoder.state_dict()
    assert step_2.keys() <= exported.keys()
    assert all(torch.equal(exported[name], value) for name, value in step_2.items())


@pytest.mark.parametrize("modality", ["text", "speech"])
def test_a_resumed_run_ends_with_the_same_weights(teachers, modality: str, tmp_path: Path) -> None:
    whole = run(command(teachers, modality, tmp_path / "whole"))
    stopped = tmp_path / "stopped"
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    resumed = run(command(teachers, modality, stopped), resume=True)
    for folder in ("pretraining", "checkpoint-4"):
        ours, theirs = (load_file(output / folder / "model.safetensors") for output in (resumed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    start = DistillationModel.from_teacher(teachers[modality], {"num_hidden_layers": 1}).encoder.state_dict()
    moved = load_file(whole / "pretraining" / "model.safetensors")
    assert any(not torch.equal(moved[f"encoder.{name}"], value) for name, value in start.items())


def test_a_run_is_not_resumed_with_another_teacher(teachers, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(teachers["vision"], teacher)
    overrides = command({"vision": teacher}, "vision", tmp_path / "out", "training.max_steps=2")
    run(overrides)
    # Its address says nothing: the same weights elsewhere are the same teacher.
    run([*overrides, f"model.teacher={teachers['vision']}", "training.max_steps=3"], resume=True)
    changed = AutoModel.from_pretrained(teacher)
    with torch.no_grad():
        next(changed.parameters()).add_(1.0)
    changed.save_pretrained(teacher)
    with pytest.raises(InputError, match="is of a run with teacher_fingerprint '.*', this one has '.*'"):
        run([*overrides, "training.max_steps=4"], resume=True)


@pytest.mark.parametrize(
    ("modality", "overrides", "sentence"),
    [
        (
            "vision",
            ["model.losses.relation=1"],
            "There is no loss (model.losses) 'relation'; did you mean 'relations'?",
        ),
        (
            "vision",
            ["model.temperatur=1"],
            "There is no key in section model 'temperatur'; did you mean 'temperature'?",
        ),
        ("vision", ["model.student.num_layers=1"], "There is no field of the student (config of vit) 'num_layers'"),
        ("vision", ["model.student.model_type=bert"], "but the teacher is a 'vit' encoder; a student is of its"),
        (
            "vision",
            ["model.student.num_hidden_layers=3"],
            "The smaller encoder has 3 layers, but the larger one only 2",
        ),
        ("vision", ["model.layer_map=[3]"], "model.layer_map names layer 3, but the teacher has layers 1 to 2"),
        ("vision", ["model.losses.logits=1"], "(vit) has no head of masked language modelling"),
        ("vision", ["model.losses=cosine"], "model.losses is 'cosine'; give model.losses.<name>=<value>"),
        ("vision", ["model.student=1"], "model.student is 1; give model.student.<name>=<value>"),
        ("vision", ["model.losses.relations=many"], "Section model of the run cannot be used"),
        ("speech", ["data.units=somewhere"], "A distillation predicts no units; leave data.units out"),
        ("text", ["data.max_length=128"], "data.max_length is 128, but the student has only 64 positions"),
        ("text", ["model.student.num_attention_heads=3"], "The hidden size (32) is not a multiple"),
    ],
)
def test_mistakes_name_the_remedy(
    teachers, modality: str, overrides: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        run([*command(teachers, modality, tmp_path / "out"), *overrides])
    assert sentence in str(error.value)


def test_a_bare_encoder_has_no_head_to_learn_from(teachers, tmp_path: Path) -> None:
    bare = AutoModel.from_pretrained(teachers["text"])
    shutil.copytree(teachers["text"], tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="has no head of masked language modelling"):
        run(command({"text": tmp_path / "bare"}, "text", tmp_path / "out"))

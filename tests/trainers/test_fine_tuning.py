import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    ResNetConfig,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    pipeline,
    set_seed,
)

from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from hf_ssl.trainers.fine_tuning import FineTuned, FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import make_task_model, trainable_share
from hf_ssl.trainers.tasks import TASKS
from tests.tiny_encoders import save_speech_encoder
from tests.trainers import fine_tune_ranks
from tests.trainers.fine_tuning_cases import Cases, training
from tests.two_processes import run_two_processes

COMMAND = "hf-ssl finetune my_run.yaml"

INPUTS = {
    "image-classification": lambda: Image.new("L", (40, 50), 200),
    "text-classification": lambda: "a kind of tree",
    "token-classification": lambda: "the old cat sleeps",
    "audio-classification": lambda: np.sin(np.arange(16_000) / 40).astype(np.float32),
    "ctc": lambda: np.sin(np.arange(16_000) / 40).astype(np.float32),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def model_arguments(cases: Cases, task: str, **changes) -> FineTuningModelArguments:
    return FineTuningModelArguments(**{"encoder": cases.encoder(task), "task": task, "tuner": "lora", **changes})


def trained(cases: Cases, task: str, folder: Path, data=None, tuner: str = "lora", **changes) -> FineTuningTrainer:
    arguments = model_arguments(cases, task, tuner=tuner)
    prepared = prepare_task(arguments, data or cases.data(task))
    set_seed(0)
    model = make_task_model(arguments, prepared.config_updates)
    trainer = FineTuningTrainer(model, training(folder, **changes), task, prepared)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("task", "tuner", "learning_rate", "steps", "metric", "value"),
    [
        ("image-classification", "lora", 1e-2, 30, "accuracy", 1.0),
        ("image-classification", "none", 1e-3, 30, "accuracy", 1.0),
        ("text-classification", "lora", 1e-2, 30, "accuracy", 1.0),
        ("token-classification", "none", 3e-3, 30, "macro_f1", 1.0),
        ("audio-classification", "lora", 1e-2, 30, "accuracy", 1.0),
        ("ctc", "lora", 1e-2, 120, "cer", 0.0),
    ],
)
def test_overfits_a_tiny_batch(cases, tmp_path, task, tuner, learning_rate, steps, metric, value):
    data = cases.data(task, max_train_items=2 if task == "ctc" else 8)
    trainer = trained(cases, task, tmp_path, data, tuner, learning_rate=learning_rate, max_steps=steps)
    assert trainer.evaluate(trainer.train_dataset)[f"eval_{metric}"] == value


@pytest.fixture(scope="module")
def finetuned(cases, tmp_path_factory) -> dict[str, FineTuned]:
    """Each task after two steps of LoRA, with the logits of its first two training items beside it."""
    results = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp(task)
        run = FineTuningRun(model_arguments(cases, task), cases.data(task), training(folder))
        results[task] = fine_tune(run, command=COMMAND, merge=True)
        prepared = prepare_task(run.model, run.data)
        inputs = prepared.collator([prepared.splits["train"][row] for row in range(2)])
        model, _ = load_finetuned(folder)
        with torch.no_grad():
            torch.save({"inputs": inputs, "logits": model(**inputs).logits}, folder / "expected.pt")
    return results


def test_what_is_saved_is_what_was_trained(cases, tmp_path):
    trainer = trained(cases, "text-classification", tmp_path)
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    trainer.model.save_pretrained(tmp_path / "out")
    trainer.processing_class.save_pretrained(tmp_path / "out")
    restored, _ = load_finetuned(tmp_path / "out")
    with torch.no_grad():
        expected = trainer.model.eval()(**inputs).logits
        assert torch.equal(restored(**inputs).logits, expected)
    names = trainer.train_dataset.features["label"].names
    assert restored.config.id2label == dict(enumerate(names))
    assert restored.config.label2id == {name: index for index, name in enumerate(names)}
    assert type(restored).__name__ == "BertForSequenceClassification"


FRESH = """
import sys, torch
from hf_ssl.trainers import load_finetuned
for folder in sys.argv[1:]:
    expected = torch.load(f"{folder}/expected.pt")
    model, processor = load_finetuned(folder)
    with torch.no_grad():
        assert torch.equal(model(**expected["inputs"]).logits, expected["logits"]), folder
    assert not model.training
"""

MERGED = """
import sys, torch
sys.modules["peft"] = None
from transformers import (
    AutoModelForAudioClassification, AutoModelForCTC, AutoModelForImageClassification,
    AutoModelForSequenceClassification, AutoModelForTokenClassification,
)
auto_models = [
    AutoModelForImageClassification, AutoModelForSequenceClassification, AutoModelForTokenClassification,
    AutoModelForAudioClassification, AutoModelForCTC,
]
for auto_model, folder in zip(auto_models, sys.argv[1:], strict=True):
    expected = torch.load(f"{folder}/expected.pt")
    model = auto_model.from_pretrained(f"{folder}/merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**expected["inputs"]).logits, expected["logits"], rtol=1e-4, atol=1e-4)
assert "hf_ssl" not in sys.modules
"""


@pytest.mark.parametrize("script", [FRESH, MERGED], ids=["adapters", "merged, without peft"])
def test_a_fresh_process_gets_the_same_logits(finetuned, script):
    folders = [str(finetuned[task].folder) for task in TASKS]
    done = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_pipelines(finetuned, task):
    model, processor = load_finetuned(finetuned[task].folder)
    given = {
        "vision": {"image_processor": processor},
        "speech": {"feature_extractor": processor},
        "text": {"tokenizer": processor},
    }[TASKS[task].modality]
    if task == "ctc":
        given = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    example = INPUTS[task]()
    adapted = pipeline(TASKS[task].pipeline, model=model, **given)(example)
    merged = pipeline(TASKS[task].pipeline, model=str(finetuned[task].merged))(example)
    if task == "ctc":
        assert adapted == merged
        assert set(adapted["text"]) <= set(processor.tokenizer.get_vocab()) | {" "}
        return
    assert [found.get("label") or found["entity"] for found in adapted] == [
        found.get("label") or found["entity"] for found in merged
    ]
    assert {found.get("label") or found["entity"] for found in adapted} <= set(model.config.label2id)
    for one, other in zip(adapted, merged, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_feature_extraction_pipelines_take_the_encoders(cases):
    texts = pipeline("feature-extraction", model=cases.encoder("text-classification"))("a kind of tree")
    images = pipeline("image-feature-extraction", model=cases.encoder("image-classification"))(
        INPUTS["image-classification"]()
    )
    assert np.asarray(texts).shape[-1] == np.asarray(images).shape[-1] == 32


@pytest.mark.parametrize("task", TASKS)
def test_only_the_adapter_and_what_the_encoder_lacked_is_trained(cases, task):
    arguments = model_arguments(cases, task)
    model = make_task_model(arguments, prepare_task(arguments, cases.data(task)).config_updates)
    trained_names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained_names)
    heads = {name.split(".modules_to_save")[0].rpartition("base_model.model.")[2] for name in trained_names}
    assert {name for name in heads if "lora_" not in name} == {
        "image-classification": {"classifier"},
        "text-classification": {"bert.pooler.dense", "classifier"},  # the encoder was saved without its pooler
        "token-classification": {"classifier"},
        "audio-classification": {"projector", "classifier"},
        "ctc": {"lm_head"},
    }[task]
    num_trained, num_parameters = trainable_share(model)
    assert num_trained == sum(model.get_parameter(name).numel() for name in trained_names)
    assert 0 < num_trained < num_parameters / 2


@pytest.mark.parametrize("frozen", [True, False])
def test_the_feature_encoder_is_frozen_unless_told_otherwise(cases, frozen):
    arguments = model_arguments(cases, "ctc", tuner="none", freeze_feature_encoder=frozen)
    model = make_task_model(arguments, prepare_task(arguments, cases.data("ctc")).config_updates)
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    convolutions = {name for name, _ in model.named_parameters() if name.startswith("hubert.feature_extractor.")}
    assert still == (convolutions if frozen else set())


@pytest.mark.parametrize("task", ["token-classification", "ctc"])
def test_the_step_does_not_depend_on_how_its_batch_is_cut(cases, tmp_path, task):
    """Rows with unequal numbers of words, or characters: one batch of four, and four of one."""
    data, weights = cases.data(task, max_train_items=4), []
    for size in (4, 1):
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        # SGD, so that the gradient's scale shows
        trainer = trained(cases, task, tmp_path, data, "none", max_steps=1, optim="sgd", max_grad_norm=0, **cut)
        weights.append({name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad})
    before = make_task_model(
        model_arguments(cases, task, tuner="none"),
        prepare_task(model_arguments(cases, task), data).config_updates,
    )
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)
    assert any(
        (weights[0][name] - p).abs().max() > 1e-3 for name, p in before.named_parameters() if name in weights[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", ["token-classification", "ctc"])
def test_two_ranks_make_the_step_of_one_and_score_alike(cases, tmp_path, task):
    fine_tune_ranks.main(cases, tmp_path / "one", task)
    run_two_processes(Path(fine_tune_ranks.__file__), cases.folder, tmp_path / "two", task)
    one, two = (torch.load(tmp_path / ranks / "weights.pt") for ranks in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
    one, two = (json.loads((tmp_path / ranks / "scores.json").read_text()) for ranks in ("one", "two"))
    for name in TASKS[task].metrics:
        assert one[f"eval_{name}"] == pytest.approx(two[f"eval_{name}"])


@pytest.mark.parametrize(("task", "tuner"), [("ctc", "lora"), ("image-classification", "none")])
def test_a_resumed_run_equals_an_uninterrupted_one(cases, tmp_path, task, tuner):
    """The image encoder is a ViT, which transformers saves under other names than its parameters have in memory."""

    def run(folder: str, max_steps: int = 4) -> FineTuningRun:
        return FineTuningRun(
            model_arguments(cases, task, tuner=tuner, tuner_config={"lora_dropout": 0.2} if tuner == "lora" else None),
            cases.data(task),
            training(
                tmp_path / folder,
                save_strategy="steps",
                save_steps=2,
                max_steps=max_steps,
                per_device_train_batch_size=2,
            ),
        )

    fine_tune(run("whole"), command=COMMAND)
    fine_tune(run("halves", max_steps=2), command=COMMAND)
    with pytest.raises(InputError, match="--resume"):
        fine_tune(run("halves"), command=COMMAND)
    fine_tune(run("halves"), command=COMMAND, resume=True)
    file = "adapter_model.safetensors" if tuner == "lora" else "model.safetensors"
    whole, halves = (load_file(tmp_path / folder / file) for folder in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert load_finetuned(tmp_path / "whole" / "checkpoint-4")[0].config.finetuning_task == task


def test_batch_normalisation_is_restored_with_the_adapter(tmp_path):
    set_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "encoder")
    arguments = FineTuningModelArguments(encoder=str(tmp_path / "encoder"), task="image-classification", tuner="lora")
    data = ImageDataArguments(path="sample:emoji", label_column="category", max_train_items=8)
    prepared = prepare_task(arguments, data)
    trainer = FineTuningTrainer(
        make_task_model(arguments, prepared.config_updates), training(tmp_path), arguments.task, prepared
    )
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "out")
    prepared.processor.save_pretrained(tmp_path / "out")
    inputs = prepared.collator([prepared.splits["train"][row] for row in range(4)])
    restored, _ = load_finetuned(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(restored(**inputs).logits, trainer.model.eval()(**inputs).logits)


def test_full_fine_tuning_is_a_plain_checkpoint(cases, tmp_path):
    run = FineTuningRun(
        model_arguments(cases, "text-classification", tuner="none"),
        cases.data("text-classification", validation_split="validation", test_split="test", max_train_items=16),
        training(tmp_path, per_device_eval_batch_size=512),
    )
    result = fine_tune(run, command=COMMAND)
    model, tokenizer = load_finetuned(tmp_path)
    assert not isinstance(model, PeftModel)
    found = pipeline("text-classification", model=str(tmp_path))("a kind of tree")
    with torch.no_grad():
        scores = model(**tokenizer("a kind of tree", return_tensors="pt")).logits.softmax(-1)[0]
    assert found[0]["label"] == model.config.id2label[int(scores.argmax())]
    assert found[0]["score"] == pytest.approx(float(scores.max()), abs=1e-5)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["validation"] == result.metrics["validation"]
    assert set(written["test"]) == {"accuracy", "macro_f1", "loss"}
    assert json.loads((tmp_path / "environment.json").read_text())["command"] == COMMAND
    sections = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert set(sections) == {"model", "data", "training"}
    assert sections["data"]["path"] == run.data.path
    assert written["num_trained_parameters"] == written["num_parameters"] == result.num_parameters


def test_a_published_encoder_with_another_head(cases, tmp_path):
    """A head of another size is replaced, one of the same size is trained, not frozen."""
    task = "image-classification"
    fine_tune(
        FineTuningRun(model_arguments(cases, task, tuner="none"), cases.data(task), training(tmp_path / "first")),
        command=COMMAND,
    )
    encoder = str(tmp_path / "first")
    for column, num_labels in (("category", 9), ("subcategory", 98)):
        arguments = model_arguments(cases, task, encoder=encoder)
        model = make_task_model(
            arguments, prepare_task(arguments, cases.data(task, label_column=column)).config_updates
        )
        head = model.get_base_model().classifier
        assert head.weight.shape == (num_labels, 32)
        assert head.weight.requires_grad
    fine_tune(
        FineTuningRun(arguments, cases.data(task, label_column="subcategory"), training(tmp_path / "second")),
        command=COMMAND,
    )
    assert load_finetuned(tmp_path / "second")[0].classifier.weight.shape == (98, 32)


def test_lora_on_an_encoder_that_weighs_its_layers(cases, tmp_path):
    encoder = shutil.copytree(cases.encoder("audio-classification"), tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "use_weighted_layer_sum": True}))
    arguments = model_arguments(cases, "audio-classification", encoder=str(encoder))
    updates = prepare_task(arguments, cases.data("audio-classification")).config_updates
    assert not make_task_model(arguments, updates).config.use_weighted_layer_sum


def test_scores_of_an_encoder_that_reads_padding_do_not_depend_on_the_batch(cases, tmp_path):
    encoder = save_speech_encoder(tmp_path / "encoder", feat_extract_norm="group", do_stable_layer_norm=False)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(encoder)
    arguments = model_arguments(cases, "ctc", encoder=str(encoder), tuner="none")
    data = prepare_task(arguments, cases.data("ctc"))
    model = make_task_model(arguments, data.config_updates)
    scores = []
    for batch_size in (1, 8):
        settings = training(tmp_path / "run", per_device_eval_batch_size=batch_size)
        trainer = FineTuningTrainer(model, settings, "ctc", data)
        scores.append(trainer.evaluate(data.splits["train"])["eval_loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_moved_encoder_is_said_to_be_missing(cases, tmp_path):
    encoder = tmp_path / "encoder"
    Path(cases.encoder("image-classification")).rename(encoder)
    run = FineTuningRun(
        model_arguments(cases, "image-classification", encoder=str(encoder)),
        cases.data("image-classification"),
        training(tmp_path / "out"),
    )
    fine_tune(run, command=COMMAND)
    moved = encoder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"belongs to the encoder .*encoder, which is not there.*encoder=\.\.\."):
        load_finetuned(tmp_path / "out")
    assert load_finetuned(tmp_path / "out", encoder=moved)[0].config.num_labels == 9


def test_a_folder_that_is_no_fine_tuned_model(cases, tmp_path):
    with pytest.raises(InputError, match="no fine-tuned model at"):
        load_finetuned(tmp_path)
    with pytest.raises(InputError, match="was not written by `hf-ssl finetune`"):
        load_finetuned(cases.encoder("ctc"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "image-clasification"}, "did you mean 'image-classification'"),
        ({"tuner": "lore"}, "did you mean 'lora'"),
        ({"tuner_config": {"lora_alfa": 8}}, "section model.tuner_config 'lora_alfa'; did you mean 'lora_alpha'"),
        ({"tuner_config": {"use_dora": True}, "tuner": "dora"}, "section model.tuner_config 'use_dora'"),
        ({"tuner_config": {"r": "many"}}, "model.tuner_config.r is 'many': input should be a valid integer"),
        ({"tuner_config": {"r": 0}}, "tuner_config.r is 0; the rank of an update is at least 1"),
        ({"tuner_config": {"target_r": 0}, "tuner": "adalora"}, "tuner_config.target_r is 0"),
        ({"tuner_config": {"lora_dropout": 1.0}}, "lora_dropout is 1.0; give a share"),
        (
            {"tuner_config": {"num_tokens": 0}, "tuner": "prefix"},
            "of the tuner prefix cannot be used: num_tokens is 0",
        ),
        ({"tuner_config": {"orth_reg_weight": -1.0}, "tuner": "adalora"}, "orth_reg_weight` should be greater"),
        ({"tuner_config": {"r": 2}, "tuner": "bitfit"}, "the tuner bitfit takes no settings; leave it out"),
    ],
)
def test_arguments_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        FineTuningModelArguments(**{"encoder": "e", "task": "ctc", "tuner": "lora", **changes})


def prepare_and_make(cases, task, data_changes=None, **changes):
    arguments = model_arguments(cases, task, **changes)
    prepared = prepare_task(arguments, cases.data(task, **(data_changes or {})))
    return make_task_model(arguments, prepared.config_updates)


def test_encoders_that_cannot_be_used(cases, tmp_path):
    task = "image-classification"
    with pytest.raises(InputError, match=r"No encoder can be loaded from .*nowhere"):
        prepare_and_make(cases, task, encoder=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="No encoder can be loaded"):
        make_task_model(model_arguments(cases, task, encoder=str(tmp_path / "nowhere")), {})
    with pytest.raises(InputError, match=r"bert encoder, which transformers has no image-classification model of"):
        make_task_model(model_arguments(cases, task, encoder=cases.encoder("text-classification")), {})
    with pytest.raises(InputError, match="reads neither waveforms nor log-mel frames"):
        prepare_and_make(cases, "ctc", encoder=cases.encoder("text-classification"))
    with pytest.raises(InputError, match="did you mean 'q_proj'"):
        prepare_and_make(cases, task, tuner_config={"target_modules": ["q_prj"]})
    with pytest.raises(InputError, match=r"did you mean 'q_proj'"):
        prepare_and_make(cases, task, tuner="ia3", tuner_config={"target_modules": "q_prj"})
    with pytest.raises(InputError, match=r"The tuner fourierft cannot be put into .*change model\.tuner_config"):
        prepare_and_make(cases, task, tuner="fourierft", tuner_config={"n_frequency": 10_000})


def test_a_run_folder_and_a_pretraining_checkpoint_are_recognised(cases, tmp_path):
    from tests.tiny import TINY

    TINY["simclr"]()[0].save_pretrained(tmp_path / "pretraining")
    with pytest.raises(InputError, match="pretraining checkpoint"):
        make_task_model(model_arguments(cases, "image-classification", encoder=str(tmp_path / "pretraining")), {})
    AutoConfig.from_pretrained(cases.encoder("image-classification")).save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="is the folder of a run; give its encoder"):
        make_task_model(model_arguments(cases, "image-classification", encoder=str(tmp_path)), {})


def test_data_that_cannot_be_used(cases):
    with pytest.raises(InputError, match=r"name their column in data\.label_column"):
        prepare_and_make(cases, "image-classification", {"label_column": None})
    with pytest.raises(InputError, match="did you mean 'category'"):
        prepare_and_make(cases, "image-classification", {"label_column": "categry"})
    with pytest.raises(InputError, match="streaming"):
        prepare_and_make(cases, "image-classification", {"streaming": True})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "one", "label": "a"}, {"text": "two", "label": "b"}], None),
        ([{"text": "one", "label": "a"}, {"text": "two", "label": "a"}], "one class only"),
    ],
)
def test_at_least_two_classes(cases, tmp_path, rows, message):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(tmp_path), "label_column": "label"}
    if message is None:
        assert prepare_and_make(cases, "text-classification", data).config.num_labels == 2
    else:
        with pytest.raises(InputError, match=message):
            prepare_and_make(cases, "text-classification", data)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_a_class_that_only_the_validation_split_has(cases, tmp_path, task):
    words = task == "token-classification"
    for split, label in (("train", "ab"), ("validation", "ac")):
        rows = [{"text": ["x", "y"], "label": list(label)}] if words else [{"text": "x", "label": v} for v in label]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(tmp_path), "label_column": "label", "validation_split": "validation", "text_column": "text"}
    with pytest.raises(
        InputError, match=r"split validation has 'c' in column 'label', which the training split lacks"
    ):
        prepare_and_make(cases, task, data)


def test_words_without_their_classes(cases, tmp_path):
    rows = [{"tokens": ["x", "y"], "tags": ["a", "b"]}, {"tokens": ["x", "y"], "tags": ["a"]}]
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"Row 1 has 2 words and 1 classes.*the only broken item among 2"):
        prepare_and_make(cases, "token-classification", {"path": str(file)})
    arguments = model_arguments(cases, "token-classification")
    kept = prepare_task(arguments, cases.data("token-classification", path=str(file), on_error="skip"))
    assert kept.splits["train"].num_rows == 1


def test_a_recording_too_short_for_its_transcript(cases, tmp_path, caplog):
    import soundfile

    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32) / 10
    for name, seconds in (("long", 1.0), ("short", 0.45)):
        soundfile.write(tmp_path / f"{name}.wav", noise[: int(seconds * 16_000)], 16_000)
    sentence = "twenty three characters"
    (tmp_path / "transcripts.tsv").write_text(f"long.wav\t{sentence}\nshort.wav\t{sentence}\n")
    data = {"path": str(tmp_path), "max_train_items": None}
    with pytest.raises(InputError, match=r"short\.wav, 0\.45 s, cannot be learnt with CTC: it has 22 frames"):
        prepare_and_make(cases, "ctc", data)
    arguments = model_arguments(cases, "ctc")
    kept = prepare_task(arguments, cases.data("ctc", **data, on_error="skip"))
    assert kept.splits["train"]["text"] == [sentence]
    assert "Left out 1 of 2 items" in caplog.text
    (tmp_path / "transcripts.tsv").unlink()
    with pytest.raises(InputError, match="has no transcripts"):
        prepare_task(arguments, SpeechDataArguments(path=str(tmp_path), validation_split=None))

"""Fine-tuning an image encoder as MAE's is: mixed images, smoothed labels, stochastic depth, few labels."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, Dinov2Config, ViTImageProcessorPil, set_seed

from hf_ssl.data.image_mixing import mix_images
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import encoder_of, make_task_model
from tests.trainers.fine_tuning_cases import Cases, training

TASK = "image-classification"
MIXED = {"mixup": 0.8, "cutmix": 1.0}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def model_of(cases: Cases, task: str = TASK, **changes) -> FineTuningModelArguments:
    return FineTuningModelArguments(**{"encoder": cases.encoder(task), "task": task, **changes})


def make_trainer(cases, folder, task=TASK, model=None, data=None, **changes) -> FineTuningTrainer:
    arguments = model_of(cases, task, **(model or {}))
    prepared = prepare_task(arguments, cases.data(task, **(data or {})))
    set_seed(0)
    return FineTuningTrainer(
        make_task_model(arguments, prepared.config_updates), training(folder, **changes), task, prepared
    )


@pytest.mark.parametrize("tuner", ["none", "lora"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_images(cases, tmp_path, tuner, smoothing):
    """Naively: -Σ_k t_k log p_k with t = (1 - ε)(λ y + (1 - λ) y') + ε / K, a mean over images."""
    trainer = make_trainer(cases, tmp_path, model={"tuner": tuner}, data=MIXED, label_smoothing_factor=smoothing)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    mixed, shares = mix_images(batch["pixel_values"], batch["mixing_weights"], batch["mixing_boxes"])
    assert not torch.equal(mixed, batch["pixel_values"])
    logits = trainer.model(pixel_values=mixed).logits.log_softmax(dim=-1)
    num_classes, labels = logits.shape[1], batch["labels"]
    expected = 0.0
    for i in range(len(labels)):
        target = torch.full((num_classes,), smoothing / num_classes)
        target[labels[i]] += (1 - smoothing) * shares[i]
        target[labels[i - 1]] += (1 - smoothing) * (1 - shares[i])
        expected -= float((target * logits[i]).sum().detach()) / len(labels)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # the share of a micro-batch in the mean over the images of an optimiser step
    part = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(3 * len(labels)))
    assert part.item() == pytest.approx(expected / 3, rel=1e-5)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_the_loss_of_smoothed_labels(cases, tmp_path, task):
    trainer = make_trainer(cases, tmp_path, task, label_smoothing_factor=0.2)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    logits = trainer.model(**batch).logits.log_softmax(dim=-1)
    counted = batch["labels"] != -100
    logits, labels = logits[counted], batch["labels"][counted]
    own = -logits[torch.arange(len(labels)), labels].mean().item()
    assert loss == pytest.approx(0.8 * own - 0.2 * logits.mean().item(), rel=1e-5)
    trainer.model.eval()
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(own, rel=1e-5)


def test_evaluation_is_not_touched(cases, tmp_path):
    changes = {"data": {**MIXED, "random_erasing": 1.0, "labelled_augmentation": "random_crop"}}
    plain = make_trainer(cases, tmp_path)
    trainer = make_trainer(cases, tmp_path, model={"drop_path": 0.5}, **changes, label_smoothing_factor=0.3)
    expected, found = (t.evaluate(t.train_dataset) for t in (plain, trainer))
    assert {name: found[name] for name in ("eval_loss", "eval_accuracy")} == {
        name: expected[name] for name in ("eval_loss", "eval_accuracy")
    }


def test_a_run_with_all_of_it_learns(cases, tmp_path):
    trainer = make_trainer(
        cases,
        tmp_path,
        model={"drop_path": 0.1},
        data={**MIXED, "mixing_probability": 0.3, "random_erasing": 0.25},
        label_smoothing_factor=0.1,
        layer_decay=0.75,
        weight_decay=0.05,
        learning_rate=2e-3,
        max_steps=60,
    )
    before = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    trainer.train()
    after = trainer.evaluate(trainer.train_dataset)
    assert after["eval_loss"] < 0.5 * before
    assert after["eval_accuracy"] >= 0.875


def test_a_resumed_run_equals_an_uninterrupted_one(cases, tmp_path):
    def run(folder: str, max_steps: int) -> FineTuningRun:
        data = {**MIXED, "random_erasing": 0.5, "labelled_augmentation": "random_crop", "max_train_items": 9}
        settings = {
            "save_strategy": "steps",
            "save_steps": 1,
            "per_device_train_batch_size": 4,
            "layer_decay": 0.65,
            "label_smoothing_factor": 0.1,
            "weight_decay": 0.05,
        }
        return FineTuningRun(
            model_of(cases, drop_path=0.5),
            cases.data(TASK, **data),
            training(tmp_path / folder, max_steps=max_steps, **settings),
        )

    fine_tune(run("whole", 5), command="")
    fine_tune(run("parts", 3), command="")
    fine_tune(run("parts", 5), command="", resume=True)
    whole, parts = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def save_dinov2(folder: Path) -> str:
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, drop_path_rate=0.3
    )
    AutoModel.from_config(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("drop_path", "expected"), [(None, 0.3), (0.0, 0.0), (0.2, 0.2)])
def test_stochastic_depth_of_the_encoder_itself_is_used(tmp_path, drop_path, expected):
    arguments = FineTuningModelArguments(encoder=save_dinov2(tmp_path), task=TASK, drop_path=drop_path)
    model = make_task_model(arguments, {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}})
    assert model.config.drop_path_rate == expected
    layers = layer_stack(encoder_of(model))
    assert [getattr(layer.drop_path, "drop_prob", 0.0) for layer in layers] == [expected] * 2
    assert not any(layer.drop_path._forward_hooks for layer in layers)


def test_stochastic_depth_is_in_an_adapted_encoder_and_in_one_with_exits(cases, tmp_path):
    for model in ({"tuner": "lora"}, {"exits": {"layers": "all"}}):
        trainer = make_trainer(cases, tmp_path, model={**model, "drop_path": 0.5})
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        losses = {trainer.compute_loss(trainer.model, dict(batch)).item() for _ in range(4)}
        assert len(losses) > 1
        trainer.model.eval()
        assert len({trainer.compute_loss(trainer.model, dict(batch)).item() for _ in range(2)}) == 1


def test_few_labels(cases, tmp_path):
    def run(folder: str, **data) -> dict:
        fields = {"max_train_items": 200, "validation_split": "validation", **data}
        result = fine_tune(
            FineTuningRun(model_of(cases, tuner="head"), cases.data(TASK, **fields), training(tmp_path / folder)),
            command="",
        )
        return json.loads((result.folder / "metrics.json").read_text())

    few, all_of_them = run("few", train_fraction=0.05, train_fraction_seed=2), run("all")
    assert all_of_them["num_train_items"] == 200
    assert "train_fraction" not in all_of_them
    assert (few["train_fraction"], few["train_fraction_seed"]) == (0.05, 2)
    assert 9 <= few["num_train_items"] <= 18


@pytest.mark.parametrize(
    ("task", "model", "data", "settings", "message"),
    [
        (TASK, {"exits": {"layers": "all"}}, MIXED, {}, "exits has a loss of its own, into which data.mixup"),
        (TASK, {"tuner": "adalora"}, {}, {"label_smoothing_factor": 0.1}, "AdaLoRA has a loss of its own"),
        ("ctc", {}, {}, {"label_smoothing_factor": 0.1}, "CTC has a loss of its own, into which training.label"),
    ],
)
def test_targets_that_a_loss_has_no_place_for(cases, tmp_path, task, model, data, settings, message):
    with pytest.raises(InputError, match=message):
        FineTuningRun(model_of(cases, task, **model), cases.data(task, **data), training(tmp_path, **settings))


def test_numbers_that_cannot_be(cases, tmp_path):
    with pytest.raises(InputError, match=r"model.drop_path is 1.0; give a rate in \[0, 1\)"):
        model_of(cases, drop_path=1.0)
    with pytest.raises(InputError, match=r"label_smoothing_factor is 1.0; give an ε in \[0, 1\)"):
        training(tmp_path, label_smoothing_factor=1.0)
    with pytest.raises(InputError, match="no stochastic depth for a bert encoder"):
        make_task_model(model_of(cases, "text-classification", drop_path=0.1), {})


def test_settings_of_pretraining_are_the_only_ones_that_a_config_keeps(cases, tmp_path):
    """Hooks are of this training: the saved model is plain."""
    trainer = make_trainer(cases, tmp_path, model={"drop_path": 0.5})
    trainer.model.save_pretrained(tmp_path)
    assert "drop_path" not in json.dumps(AutoConfig.from_pretrained(tmp_path).to_dict())

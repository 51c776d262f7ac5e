"""How exits are trained: each scheme's loss beside a loop written from its paper, and what learns in which stage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, set_seed

from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from hf_ssl.trainers.exit_arguments import SCHEMES
from hf_ssl.trainers.exit_training import ExitTrainer, self_distillation, train_exits
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.task_data import TaskData, prepare_task
from hf_ssl.trainers.task_model import make_task_model
from hf_ssl.trainers.tasks import TASKS
from tests.evaluation.tiny_data import image_data, text_data
from tests.trainers.fine_tuning_cases import Cases, training

TEXTS = "text-classification"


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def model_arguments(cases: Cases, task: str, **changes) -> FineTuningModelArguments:
    fields = {"encoder": cases.encoder(task), "task": task, "exits": {"layers": "all"}}
    return FineTuningModelArguments(**{**fields, **changes})


def prepared(cases: Cases, task: str, **changes) -> tuple[nn.Module, TaskData]:
    arguments = model_arguments(cases, task, **changes)
    data = prepare_task(arguments, cases.data(task))
    set_seed(0)
    return make_task_model(arguments, data.config_updates), data


def trainer_of_stage(cases: Cases, folder: Path, task: str, scheme: str, place: int = 0, **changes) -> ExitTrainer:
    model, data = prepared(cases, task, **changes)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return ExitTrainer(model, training(folder), task, data, SCHEMES[scheme][place], trained)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def cross_entropies(trainer: ExitTrainer, batch: dict[str, Tensor]) -> list[float]:
    """Of every exit, item by item."""
    trainer.model.eval()
    labels = batch["labels"]
    with torch.no_grad():
        exit_logits = trainer.exit_model(**batch).exit_logits
    losses = []
    for logits in exit_logits:
        rows = zip(logits.reshape(-1, logits.shape[-1]), labels.flatten(), strict=True)
        of_items = [-row.log_softmax(-1)[label] for row, label in rows if label != -100]
        losses.append(float(sum(of_items) / len(of_items)))
    return losses


def loss_of(trainer: ExitTrainer, batch: dict[str, Tensor], step: int = 0) -> float:
    """In training, but without dropout."""
    for module in trainer.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    trainer.model.train()
    trainer.state.global_step = step
    return trainer.compute_loss(trainer.model, dict(batch)).item()


@pytest.mark.parametrize("task", [TEXTS, "token-classification", "image-classification"])
def test_the_losses_of_the_schemes(cases, tmp_path, task):
    def trainer_and_batch(scheme: str, place: int = 0) -> tuple[ExitTrainer, dict[str, Tensor], list[float]]:
        trainer = trainer_of_stage(cases, tmp_path, task, scheme, place)
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
        return trainer, batch, cross_entropies(trainer, batch)

    trainer, batch, (first, last) = trainer_and_batch("joint")
    assert loss_of(trainer, batch) == pytest.approx((first + last) / 2, rel=1e-5)
    trainer, batch, (first, last) = trainer_and_batch("depth_weighted")
    assert loss_of(trainer, batch) == pytest.approx((1 * first + 2 * last) / 3, rel=1e-5)
    trainer, batch, (first, last) = trainer_and_batch("alternating")
    for step in range(4):
        expected = last if step % 2 == 0 else (first + last) / 2
        assert loss_of(trainer, batch, step) == pytest.approx(expected, rel=1e-5)
    trainer, batch, (_, last) = trainer_and_batch("two_stage")
    assert loss_of(trainer, batch) == pytest.approx(last, rel=1e-5)
    trainer, batch, (first, last) = trainer_and_batch("two_stage", 1)
    assert loss_of(trainer, batch) == pytest.approx((first + last) / 2, rel=1e-5)


def test_self_distillation_is_the_papers():
    torch.manual_seed(0)
    exit_logits = [torch.randn(3, 5, 4, requires_grad=True) for _ in range(4)]
    counts = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    expected = 0.0
    for student in exit_logits[:-1]:
        for row in range(3):
            for position in range(int(counts[row].sum())):
                p = student[row, position].softmax(-1)
                q = exit_logits[-1][row, position].softmax(-1)
                expected += sum(p[c] * torch.log(p[c] / q[c]) for c in range(4)).item() / 3
    loss = self_distillation(exit_logits, counts)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert exit_logits[-1].grad is None
    assert exit_logits[0].grad[1, 2:].abs().max() == 0 < exit_logits[0].grad[1, :2].abs().min()
    assert self_distillation([exit_logits[-1]] * 2, counts).item() == 0


def test_what_learns_to_exit_sees_the_wrongness_and_not_the_labels_loss(cases, tmp_path):
    """BERxiT: the squared error of the predicted wrongness, a mean over exits, beside the exits' own losses."""
    trainer = trainer_of_stage(cases, tmp_path, TEXTS, "joint", exits={"learn_to_exit": True})
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    losses = cross_entropies(trainer, batch)
    with torch.no_grad():
        output = trainer.exit_model(**batch)
    squares = 0.0
    for logits, errors in zip(output.exit_logits, output.exit_errors, strict=True):
        for row in range(4):
            wrong = float(logits[row].argmax() != batch["labels"][row])
            squares += float((errors[row] - wrong) ** 2) / 4 / 2
    assert loss_of(trainer, batch) == pytest.approx(sum(losses) / 2 + squares, rel=1e-5)
    staged = trainer_of_stage(cases, tmp_path, TEXTS, "two_stage", exits={"learn_to_exit": True})
    assert loss_of(staged, batch) == pytest.approx(losses[-1], rel=1e-5)  # nothing of it while it does not learn
    distilled = trainer_of_stage(cases, tmp_path, TEXTS, "self_distillation", 1, exits={"learn_to_exit": True})
    divergence = float(self_distillation(output.exit_logits, None)) / 4
    assert loss_of(distilled, batch) == pytest.approx(divergence + squares, rel=1e-4)


@pytest.mark.parametrize(
    ("scheme", "task", "tuner"),
    [
        ("two_stage", TEXTS, "none"),
        ("two_stage", "ctc", "lora"),
        ("self_distillation", TEXTS, "lora"),
        ("self_distillation", "image-classification", "none"),
    ],
)
def test_what_learns_in_each_stage(cases, tmp_path, task, tuner, scheme):
    for place, stage in enumerate(("backbone", "exits")):
        trainer = trainer_of_stage(cases, tmp_path / stage, task, scheme, place, tuner=tuner)
        before = weights(trainer.model)
        trainer.train()
        learned = {name.replace("base_model.model.", "") for name in changed(before, trainer.model)}
        in_early_exits = {name for name in learned if name.startswith("exits.0.")}
        if stage == "exits":
            assert learned == in_early_exits != set()
            assert not trainer.exit_model.base_model.training  # and so it has no dropout
        else:
            assert not in_early_exits
            assert any(name.startswith("backbone.") for name in learned)
            assert any(name.startswith("exits.1.classifier") for name in learned)


def test_the_exits_that_a_step_leaves_out_do_not_move(cases, tmp_path):
    """Alternating: in the first step, the optimiser has neither gradient nor momentum of the first exit."""
    model, data = prepared(cases, TEXTS)
    moved = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            self.before = weights(model)

        def on_step_end(self, args, state, control, **kwargs):
            moved.append(any(name.startswith("exits.0.") for name in changed(self.before, model)))

    trained = list(model.parameters())
    arguments = training(tmp_path, max_steps=4, weight_decay=0.1)
    trainer = ExitTrainer(model, arguments, TEXTS, data, SCHEMES["alternating"][0], trained)
    trainer.add_callback(Look())
    trainer.train()
    assert moved == [False, True, False, True]


@pytest.mark.parametrize("task", ["token-classification", "ctc"])
@pytest.mark.parametrize(("scheme", "place"), [("joint", 0), ("self_distillation", 1)])
def test_the_gradient_does_not_depend_on_how_a_batch_was_cut(cases, tmp_path, task, scheme, place):
    gradients = []
    for size in (4, 1):
        trainer = trainer_of_stage(cases, tmp_path, task, scheme, place)
        rows = [trainer.train_dataset[row] for row in range(4)]
        whole = trainer.data_collator(rows)
        count = (whole["labels"] != -100).sum()
        for module in trainer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        trainer.model.train()
        for start in range(0, 4, size):
            batch = trainer.data_collator(rows[start : start + size])
            trainer.compute_loss(trainer.model, batch, num_items_in_batch=count).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[0].norm()


def run(cases: Cases, folder: Path, task: str = TEXTS, tuner: str = "none", **changes) -> FineTuningRun:
    fields = {"exit_scheme": "two_stage", "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    arguments = model_arguments(cases, task, tuner=tuner)
    return FineTuningRun(arguments, cases.data(task), training(folder, **{**fields, **changes}))


def test_the_best_of_the_second_stage_is_that_of_the_least_loss(cases, tmp_path):
    """The metrics are of the last exit, which does not change any more."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "eval_strategy": "epoch"}
    arguments = training(tmp_path, max_steps=4, exit_scheme="two_stage", save_strategy="epoch", **best)
    model, data = prepared(cases, TEXTS)
    data.splits["validation"] = data.splits["train"]
    trainer = train_exits(model, arguments, TEXTS, data, resume=False)
    losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert len(losses) > 1
    assert trainer.state.best_global_step == min(losses, key=losses.get)


@pytest.mark.parametrize("tuner", ["lora", pytest.param("none", marks=pytest.mark.slow)])
def test_two_stages_resumed_anywhere_equal_an_uninterrupted_run(cases, tmp_path, tuner):
    """Stopped in the first stage, between the two, and in the second."""
    file = "adapter_model.safetensors" if tuner == "lora" else "model.safetensors"
    whole = tmp_path / "whole"
    fine_tune(run(cases, whole, tuner=tuner, per_device_train_batch_size=3), command="hf-ssl finetune")
    expected = load_file(whole / file)
    for kept in (["backbone/checkpoint-1"], ["backbone/checkpoint-2"], ["backbone/checkpoint-2", "checkpoint-1"]):
        folder = tmp_path / "-".join(kept).replace("/", "-")
        for name in kept:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(whole / name)
        again = run(cases, folder, tuner=tuner, per_device_train_batch_size=3)
        fine_tune(again, command="hf-ssl finetune", resume=True)
        resumed = load_file(folder / file)
        assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == [], kept
    with pytest.raises(InputError, match="add --resume"):
        fine_tune(run(cases, whole, tuner=tuner), command="hf-ssl finetune")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_scores_every_exit_and_is_loaded_again(cases, tmp_path, task):
    arguments = run(cases, tmp_path, task, tuner="lora", save_strategy="no", exit_learning_rate=0.02)
    small = {TEXTS: text_data, "image-classification": image_data}
    data = small[task](tmp_path / "data") if task in small else cases.data(task, validation_split="validation")
    arguments.data = data
    result = fine_tune(arguments, command="hf-ssl finetune")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["exits"]) == {*metrics} & {"validation", "test"}
    by_layer = metrics["exits"]["validation"]
    assert list(by_layer) == ["1", "2"]
    assert set(by_layer["1"]) == set(TASKS[task].metrics)
    assert by_layer["2"] == {name: metrics["validation"][name] for name in TASKS[task].metrics}
    assert result.exits == metrics["exits"]
    model, _ = load_finetuned(tmp_path)
    assert type(model).__name__.startswith("EarlyExitFor")
    assert model.config.exits == [1, 2]
    reloaded = prepare_task(arguments.model, data)
    batch = reloaded.collator([reloaded.splits["validation"][0]])
    batch.pop("labels")
    with torch.no_grad():
        assert len(model(**batch).exit_logits) == 2


@pytest.mark.parametrize(
    "scheme",
    ["alternating", "two_stage", *(pytest.param(n, marks=pytest.mark.slow) for n in ("joint", "self_distillation"))],
)
def test_every_scheme_overfits_a_tiny_batch_at_every_exit(cases, tmp_path, scheme):
    model, data = prepared(cases, TEXTS)
    arguments = training(tmp_path, exit_scheme=scheme, max_steps=30, learning_rate=3e-3)
    if len(SCHEMES[scheme]) > 1:
        arguments = training(tmp_path, exit_scheme=scheme, max_steps=40, learning_rate=3e-3, exit_learning_rate=3e-2)
    trainer = train_exits(model, arguments, TEXTS, data, resume=False)
    scores = trainer.evaluate(trainer.train_dataset)
    assert scores["eval_accuracy"] == scores["eval_layer_2_accuracy"] == 1.0
    assert scores["eval_layer_1_accuracy"] >= (0.7 if len(SCHEMES[scheme]) > 1 else 1.0)


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ({"layers": [1, 7]}, r"There is no layer 7 for an exit; the encoder has layers 1 to 2"),
        ({"layers": "some"}, r"model.exits.layers is 'some'"),
        ({"layers": [2, 1]}, "rising order"),
        ({"layers": [2]}, "leaves no exit before the last layer, 2; name an earlier layer"),
        ({"heads": "linear"}, r"There is no key in section model.exits 'heads'; did you mean 'head'"),
        ({"head": "lineal"}, r"'lineal'; did you mean 'linear'"),
    ],
)
def test_exits_that_cannot_be(cases, exits, message):
    def make() -> None:
        make_task_model(model_arguments(cases, TEXTS, exits=exits), {"num_labels": 2})

    with pytest.raises(InputError, match=message):
        make()


def test_settings_of_exits_that_there_are_not(cases, tmp_path):
    with pytest.raises(InputError, match="'two_stages'; did you mean 'two_stage'"):
        training(tmp_path, exit_scheme="two_stages")
    with pytest.raises(InputError, match="exit_learning_rate is of a second stage"):
        training(tmp_path, exit_scheme="joint", exit_learning_rate=1e-3)
    with pytest.raises(InputError, match="choose model.tuner=deep_prompt, or leave model.exits out"):
        model_arguments(cases, TEXTS, tuner="prompt")
    plain = FineTuningModelArguments(encoder=cases.encoder(TEXTS), task=TEXTS)
    with pytest.raises(InputError, match="exit_scheme=joint trains exits; say after which layers"):
        FineTuningRun(plain, cases.data(TEXTS), training(tmp_path, exit_scheme="joint"))

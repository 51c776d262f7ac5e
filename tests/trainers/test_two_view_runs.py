"""Runs of objectives whose state depends on the share of the training that is done: a part that learns at a constant
rate, a teacher that comes to rest.
"""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.teacher import cosine_decay
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.pretraining import SSLTrainer
from hf_ssl.trainers.schedules import cosine
from tests.tiny import TINY
from tests.trainers.comparing import assert_identical
from tests.trainers.train_tiny import NoisyCollator, Rows

STEPS, INTERRUPTED = 8, 4


class LearningRates(TrainerCallback):
    """Keeps the learning rate of each parameter, by name, with which each step was taken; may stop the run."""

    def __init__(self, stop_at: int = STEPS) -> None:
        self.stop_at, self.by_name = stop_at, []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        names = {id(p): name for name, p in kwargs["model"].named_parameters()}
        groups = kwargs["optimizer"].param_groups
        self.by_name.append({names[id(p)]: group["lr"] for group in groups for p in group["params"]})

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.stop_at


def train(objective: str, folder: Path, callback: TrainerCallback, resume: bool = False) -> SSLPreTrainedModel:
    model, batch = TINY[objective]()
    args = SSLTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        max_steps=STEPS,
        optimizer="sgd",
        learning_rate=0.1,
        schedule="cosine",
        warmup_steps=2,
        save_steps=INTERRUPTED,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SSLTrainer(model, args, KeyedDataset(Rows(batch, 16)), NoisyCollator(0.1), callbacks=[callback])
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{INTERRUPTED}") if resume else None)
    return model


def test_simsiams_predictor_learns_at_a_constant_rate_through_a_resumed_run(tmp_path: Path) -> None:
    first, second = LearningRates(stop_at=INTERRUPTED), LearningRates()
    train("simsiam", tmp_path, first)
    model = train("simsiam", tmp_path, second, resume=True)
    steps = first.by_name + second.by_name
    assert len(steps) == STEPS
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for step, rates in enumerate(steps):
        assert rates.keys() == trained
        for name, rate in rates.items():
            stays = name.startswith("prediction_head.")
            expected = min(step / 2, 1) if stays else cosine(step, warmup=2, total=STEPS)
            assert rate == pytest.approx(0.1 * expected), (name, step)


@pytest.mark.parametrize("objective", ["simsiam", "byol"])
def test_a_resumed_run_ends_with_the_same_weights(objective: str, tmp_path: Path) -> None:
    whole = train(objective, tmp_path / "whole", LearningRates())
    train(objective, tmp_path / "halves", LearningRates(stop_at=INTERRUPTED))
    halves = train(objective, tmp_path / "halves", LearningRates(), resume=True)
    assert_identical(whole.state_dict(), halves.state_dict())


def test_byols_teacher_is_the_moving_average_of_its_run(tmp_path: Path) -> None:
    class Follower(TrainerCallback):
        """Eq. 1, one parameter at a time, beside the run."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.teacher = {name: p.clone() for name, p in kwargs["model"].teacher.named_parameters()}

        def on_step_end(self, args, state, control, **kwargs):
            decay, student = cosine_decay(state.global_step / STEPS, 0.996), dict(kwargs["model"].named_parameters())
            self.teacher = {name: decay * p + (1 - decay) * student[name].detach() for name, p in self.teacher.items()}

    follower = Follower()
    model = train("byol", tmp_path, follower)
    start = dict(TINY["byol"]()[0].teacher.named_parameters())
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter, follower.teacher[name])
    assert any(not torch.equal(start[name], p) for name, p in model.teacher.named_parameters())

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel, ViTModel

from hf_ssl.trainers import compute_watch
from hf_ssl.trainers.compute_watch import ComputeWatch, num_positions_of_a_whole_image
from tests.tiny_vision import vit


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(compute_watch, "perf_counter", lambda: self.now)

    def wait(self, seconds):
        self.now += seconds


class Student(nn.Module):
    """A student, and a teacher with an encoder of the same kind."""

    def __init__(self):
        super().__init__()
        self.encoder = ViTModel(vit(), add_pooling_layer=False)
        self.teacher = ViTModel(vit(), add_pooling_layer=False)


ARGS = SimpleNamespace(gradient_accumulation_steps=2)


def test_evaluations_and_checkpoints_are_no_training(monkeypatch):
    clock, state = Clock(monkeypatch), SimpleNamespace(log_history=[])
    watch, model = ComputeWatch(16), Student()
    whole, small = torch.zeros(3, 3, 16, 16), torch.zeros(5, 3, 8, 8)
    clock.wait(7)  # before the training
    watch.on_train_begin(ARGS, state, None, model=model)
    clock.wait(1)
    watch.on_epoch_begin(ARGS, state, None, train_dataloader=range(8))
    clock.wait(2)
    model.encoder(whole)
    model.encoder(small, interpolate_pos_encoding=True)
    model.teacher(whole)
    watch.on_step_end(ARGS, state, None)
    passes = 3 + 5 * (1 + 4) / (1 + 16) + 3
    model.encoder(whole)  # an evaluation
    clock.wait(30)
    state.log_history.append({"step": 1})
    watch.on_log(ARGS, state, None)
    assert state.log_history == [{"step": 1, "training_seconds": 3.0, "encoder_passes": pytest.approx(passes)}]
    clock.wait(10)
    watch.on_evaluate(ARGS, state, None)
    clock.wait(20)
    watch.on_save(ARGS, state, None)
    clock.wait(4)
    watch.on_step_end(ARGS, state, None)
    assert (watch.epoch_seconds, watch.step_seconds, watch.steps_an_epoch) == ([1.0], [2.0, 4.0], 4)
    assert (watch.seconds, watch.passes) == (7.0, pytest.approx(passes))
    watch.on_train_end(ARGS, state, None)
    model.encoder(whole)
    watch.on_step_end(ARGS, state, None)
    assert watch.passes == pytest.approx(passes)


def test_a_resumed_training_goes_on_from_the_log(monkeypatch):
    clock = Clock(monkeypatch)
    log = [{"step": 1, "training_seconds": 5.0, "encoder_passes": 8.0}, {"step": 2}]
    watch = ComputeWatch(16)
    watch.on_train_begin(ARGS, SimpleNamespace(log_history=log), None, model=Student())
    clock.wait(2)
    watch.on_step_end(ARGS, SimpleNamespace(log_history=log), None)
    assert (watch.seconds, watch.passes) == (7.0, 8.0)


def test_positions_of_a_whole_image():
    encoder = ViTModel(vit(), add_pooling_layer=False)
    assert num_positions_of_a_whole_image(encoder, 16) == 17
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    assert num_positions_of_a_whole_image(resnet, 32) == 4 * 4

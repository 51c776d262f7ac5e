"""Cached gradients are those of the whole batch, in the memory of a chunk, whatever they are combined with."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.views import EncodedViews
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.cached_gradients import cached_gradients
from hf_ssl.trainers.pretraining import SSLTrainer
from tests.modeling.vision.simclr_ranks import ENCODERS
from tests.testing_common import assert_close_gradients, gradients
from tests.tiny import TINY
from tests.trainers.comparing import assert_same_step, weights
from tests.trainers.test_pretraining import train

SPLIT = ("simclr", "moco", "moco_v3", "nnclr", "byol", "simsiam", "barlow_twins", "vicreg", "dino", "ibot")


def with_dropout(model: nn.Module) -> nn.Module:
    model.encoder.config.hidden_dropout_prob = 0.3
    for module in model.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return model.train()


def backward(model: nn.Module, batch: dict[str, Tensor], chunk_size: int | None = None) -> dict[str, Tensor]:
    """The gradient, and the loss under the name `loss`."""
    model.zero_grad()
    if chunk_size is None:
        loss = model(**batch).loss
    else:
        with cached_gradients(model, chunk_size):
            loss = model(**batch).loss
    loss.backward()
    return {**gradients(model), "loss": loss.detach()}


def algorithm_of_the_paper(model: nn.Module, pixel_values: Tensor, chunk_size: int) -> dict[str, Tensor]:
    """Section 3.2 of arXiv:2101.06983, step by step, with the state of the generator kept for each chunk."""
    model.zero_grad()
    states, features = [], []
    for chunk in pixel_values.split(chunk_size):
        states.append(torch.get_rng_state())
        with torch.no_grad():
            features.append(model.embed(chunk).features)
    whole = torch.cat(features).requires_grad_()
    loss = model.compare(EncodedViews(features=whole)).loss
    loss.backward()
    cache = whole.grad.split(chunk_size)
    for chunk, state, gradient in zip(pixel_values.split(chunk_size), states, cache, strict=True):
        torch.set_rng_state(state)
        model.embed(chunk).features.backward(gradient)
    return {**gradients(model), "loss": loss.detach()}


@pytest.mark.parametrize("chunk_size", [1, 3, 20])
@pytest.mark.parametrize("objective", SPLIT)
def test_the_gradient_is_that_of_the_whole_batch(objective: str, chunk_size: int) -> None:
    model, batch = TINY[objective]()
    assert_close_gradients(backward(model.train(), batch), backward(model, batch, chunk_size))


@pytest.mark.parametrize("chunk_size", [3, 8])
def test_with_dropout_it_is_the_papers_algorithm(chunk_size: int) -> None:
    model, batch = TINY["simclr"]()
    with_dropout(model)
    torch.manual_seed(5)
    expected = algorithm_of_the_paper(model, batch["pixel_values"], chunk_size)
    torch.manual_seed(5)
    assert_close_gradients(expected, backward(model, batch, chunk_size))
    torch.manual_seed(6)
    other = backward(model, batch, chunk_size)
    assert not torch.allclose(other["loss"], expected["loss"])  # there is dropout


def test_autocast_holds_in_both_passes() -> None:
    model, batch = TINY["simclr"]()
    dtypes = []
    model.encoder.layers[0].mlp.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), cached_gradients(model.train(), 3):
        loss = model(**batch).loss
    assert loss.dtype == torch.float32
    cached = (loss.backward(), gradients(model))[1]
    assert dtypes == [torch.bfloat16] * 6  # three chunks, twice
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**batch).loss.backward()
    whole = gradients(model)
    left, right = (torch.cat([side[name].flatten() for name in whole]) for side in (whole, cached))
    assert (left - right).norm() <= 0.02 * left.norm()  # what rounding leaves of bf16


def test_nothing_of_the_encoder_waits_for_the_backward_pass() -> None:
    model, batch = TINY["simclr"]()

    def bytes_kept(chunk_size: int | None) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            if chunk_size is None:
                loss = model(**batch).loss
            else:
                with cached_gradients(model, chunk_size):
                    loss = model(**batch).loss
        assert loss.requires_grad
        return sum(kept.values())

    assert bytes_kept(2) < 0.1 * bytes_kept(None)  # the images, the features, the head


@pytest.mark.parametrize("objective", ["moco", "moco_v3"])
def test_what_happens_once_a_batch_happens_once(objective: str) -> None:
    model, batch = TINY[objective]()
    calls = {"student": 0, "teacher": 0}

    def count(name: str) -> None:
        calls[name] += 1

    model.encoder.register_forward_pre_hook(lambda *_: count("student"))
    model.teacher["encoder"].register_forward_pre_hook(lambda *_: count("teacher"))
    backward(model.train(), batch, 3)
    assert calls == {"student": 6, "teacher": 3}  # the teacher has no gradient, so it reads each chunk once
    if objective == "moco":
        assert [len(rows) for rows in model.queue.waiting] == [8]
    assert "embed" not in vars(model)


def test_without_gradient_the_loss_is_the_same() -> None:
    model, batch = TINY["nnclr"]()
    with torch.no_grad():
        whole = model.eval()(**batch).loss
        with cached_gradients(model, 3):
            torch.testing.assert_close(model(**batch).loss, whole)


@pytest.mark.parametrize("objective", ["simclr", "moco"])
def test_with_recomputed_activations(objective: str) -> None:
    model, batch = TINY[objective]()
    whole = backward(model.train(), batch)
    model.activation_checkpointing_enable()
    assert_close_gradients(whole, backward(model, batch, 3))


@pytest.mark.parametrize("objective", ["simclr", pytest.param("moco_v3", marks=pytest.mark.slow)])
def test_two_processes_with_chunks_are_one_without(objective: str, tmp_path: Path) -> None:
    whole = weights(train(objective, tmp_path / "whole"))
    chunks = weights(train(objective, tmp_path / "chunks", "--batch-size=4", "--cache-chunk-size=3", ranks=2))
    assert_same_step(TINY[objective]()[0].state_dict(), whole, chunks)


@pytest.mark.slow
def test_gradient_accumulation_on_two_processes(tmp_path: Path) -> None:
    options = ["--batch-size=2", "--accumulate=2"]
    plain = weights(train("simclr", tmp_path / "plain", *options, ranks=2))
    chunks = weights(train("simclr", tmp_path / "chunks", *options, "--cache-chunk-size=1", ranks=2))
    assert_same_step(TINY["simclr"]()[0].state_dict(), plain, chunks)


def arguments(tmp_path: Path) -> SSLTrainingArguments:
    return SSLTrainingArguments(output_dir=str(tmp_path), cache_chunk_size=2, use_cpu=True)


def test_an_encoder_with_batch_norm(tmp_path: Path) -> None:
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=ENCODERS["resnet"]))
    with pytest.raises(InputError, match="'resnet' has batch normalisation"):
        SSLTrainer(model, arguments(tmp_path), None, lambda rows: rows)


def test_an_objective_that_compares_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HubertForPreTraining does not compare the images"):
        SSLTrainer(TINY["hubert"]()[0], arguments(tmp_path), None, lambda rows: rows)


def test_a_chunk_has_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cache_chunk_size is 0"):
        SSLTrainingArguments(output_dir=str(tmp_path), cache_chunk_size=0)

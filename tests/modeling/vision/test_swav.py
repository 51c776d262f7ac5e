import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.sinkhorn import sinkhorn
from hf_ssl.modeling.vision.swav import SwAVConfig, SwAVForPreTraining, swapped_prediction
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.swav_ranks import ENCODERS, build, joint_batch, runs
from tests.modeling.vision.test_simclr import TINY_ENCODERS
from tests.two_processes import run_two_processes


def by_hand(z, prototypes, temperature, past=()):
    """Eq. 1 to 5 of arXiv:2006.09882 in loops: z[v][b] of view v, the codes of views 0 and 1, past[v] their queues."""
    num_views, num_images, terms = len(z), len(z[0]), []
    for assigned in (0, 1):
        everything = torch.stack([*(past[assigned] if past else []), *z[assigned]])
        q = sinkhorn(everything @ prototypes.T, 0.05, 3)[-num_images:]
        for view in range(num_views):
            if view == assigned:
                continue
            for b in range(num_images):
                scores = [(z[view][b] @ c).item() / temperature for c in prototypes]
                log_total = math.log(sum(math.exp(score) for score in scores))
                terms.append(-sum(q[b, k].item() * (score - log_total) for k, score in enumerate(scores)))
    return sum(terms) / len(terms)


def projections(model, batch):
    """Z of each view, in the order of the views, as the head sees them together."""
    views = [*batch["pixel_values"].unbind(1), *batch["local_pixel_values"].unbind(1)]
    hidden = [model.encoder(view, interpolate_pos_encoding=True).last_hidden_state.mean(1) for view in views]
    return F.normalize(model.projection_head(torch.cat(hidden)), dim=1).chunk(len(views))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_equations_1_to_5(temperature):
    model, batch = build("vit"), joint_batch()
    model.config.temperature = temperature
    with torch.no_grad():
        prototypes = F.normalize(model.prototypes.weight, dim=1)
        expected = by_hand(projections(model, batch), prototypes, temperature)
    assert model(**batch).loss.item() == pytest.approx(expected, rel=1e-4)


def test_two_views_are_the_swapped_prediction_of_equation_1():
    codes, logits = torch.rand(2, 5, 3).softmax(2), torch.randn(2, 5, 3)
    first, second = (-(codes[a] * logits[b].log_softmax(1)).sum(1).mean() for a, b in ((0, 1), (1, 0)))
    torch.testing.assert_close(swapped_prediction(logits, codes), (first + second) / 2)


def test_no_gradient_flows_through_the_codes():
    """Of two views alone each is code and prediction; the gradient is that of given codes."""
    model, pixel_values = build("vit").eval(), joint_batch()["pixel_values"]
    encoded = model.embed(pixel_values)
    model.compare(encoded).loss.backward()
    expected = model.prototypes.weight.grad.clone()
    model.zero_grad()
    z = F.normalize(model.projection_head(encoded.features.transpose(0, 1).flatten(0, 1).detach()), dim=1)
    prototypes = F.normalize(model.prototypes.weight, dim=1)
    scores = (z @ prototypes.T).unflatten(0, (2, 4))
    codes = torch.stack([sinkhorn(of_view, 0.05, 3) for of_view in scores])
    swapped_prediction(scores / 0.1, codes).backward()
    torch.testing.assert_close(model.prototypes.weight.grad, expected)


def test_the_length_of_prototypes_does_not_matter_and_a_step_brings_it_back_to_one():
    model, batch = build("vit"), joint_batch()
    loss = model(**batch).loss
    with torch.no_grad():
        model.prototypes.weight *= 3
    torch.testing.assert_close(model(**batch).loss, loss)
    model.after_optimizer_step(0.1)
    torch.testing.assert_close(model.prototypes.weight.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(model(**batch).loss, loss)


@torch.no_grad()
def test_the_queue_takes_part_once_it_is_full_and_its_share_has_come():
    model = build("vit", queue_size=8, queue_start_share=0.5)
    batches = [joint_batch(step) for step in range(6)]
    views = [projections(model, batch) for batch in batches]
    prototypes = F.normalize(model.prototypes.weight, dim=1)
    alone = [by_hand(z, prototypes, 0.1) for z in views]
    for step, progress in enumerate((0.2, 0.4, 0.45, 0.5)):
        assert model(**batches[step]).loss.item() == pytest.approx(alone[step], rel=1e-4), step
        model.after_optimizer_step(progress)
    for step in (4, 5):
        past = [torch.cat([views[step - 2][v], views[step - 1][v]]) for v in (0, 1)]
        joined = by_hand(views[step], prototypes, 0.1, past)
        assert abs(joined - alone[step]) > 1e-2
        assert model(**batches[step]).loss.item() == pytest.approx(joined, rel=1e-4)
        model.after_optimizer_step(0.6)


def test_a_queue_that_is_not_full_is_not_noticed():
    model, without = build("vit", queue_size=12, queue_start_share=0.0), build("vit")
    for step in range(4):
        assert int(model.queues[0].num_filled) == 4 * step
        difference = model(**joint_batch(step)).loss - without(**joint_batch(step)).loss
        assert (abs(difference) > 1e-3) == (step == 3)
        model.after_optimizer_step(0.5)


def test_evaluation_leaves_the_queue_alone():
    model = build("vit", queue_size=8).eval()
    before = model.queues[0].rows.clone()
    model(**joint_batch())
    model.after_optimizer_step(0.5)
    assert torch.equal(model.queues[0].rows, before)


def test_prototypes_are_frozen_for_the_first_share():
    model = build("vit", freeze_prototypes_share=0.25)
    for progress, is_frozen in ((0.0, True), (0.2, True), (0.25, False), (1.0, False)):
        model(**joint_batch()).loss.backward()
        model.before_optimizer_step(progress)
        assert (model.prototypes.weight.grad is None) == is_frozen
        assert model.projection_head[0].weight.grad is not None


def test_output_and_diagnostics():
    output = build("resnet")(**joint_batch())
    assert output.logits.shape == (8, 6)
    assert output.targets.shape == (8,)
    assert output.features.shape == (16, 16)
    assert output.num_predictions == {}
    assert not output.logits.requires_grad
    assert not output.features.requires_grad
    torch.testing.assert_close(output.loss_terms["swapped_prediction"], output.loss.detach())
    assert 1 <= output.diagnostics["prototypes_used"] <= 6
    assert 1 <= output.diagnostics["prototypes_an_image"] <= 6


def test_the_diagnostics_tell_a_collapse():
    """All images alike: every code is spread over all prototypes, and the loss is ln K or more."""
    model = build("vit").eval()
    output = model(pixel_values=torch.zeros(4, 2, 3, 16, 16))
    assert output.diagnostics["prototypes_an_image"].item() == pytest.approx(6, rel=1e-4)
    assert output.diagnostics["prototypes_used"].item() == pytest.approx(1, rel=1e-4)
    assert output.loss.item() > math.log(6) - 1e-4


def test_the_host_does_not_wait():
    model = build("vit", queue_size=8).train()
    with NoWaiting():
        model(**joint_batch()).loss.backward()
        model.after_optimizer_step(0.5)


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    sizes = {"projection_hidden_size": 16, "projection_size": 8, "num_prototypes": 6}
    model = SwAVForPreTraining(SwAVConfig(encoder_config=TINY_ENCODERS[encoder], **sizes))
    batch = joint_batch()
    if encoder == "swin":  # transformers' Swin refuses feature maps that are smaller than its window
        batch.pop("local_pixel_values")
    model(**batch).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    images = joint_batch()["pixel_values"][:, 0]
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_defaults_are_the_papers():
    config = SwAVConfig()
    assert config.encoder_config.model_type == "resnet"
    assert (config.projection_hidden_size, config.projection_size, config.num_prototypes) == (2048, 128, 3000)
    assert (config.temperature, config.epsilon, config.sinkhorn_iterations) == (0.1, 0.05, 3)


def test_two_processes_equal_one_on_the_joint_batch(tmp_path):
    """In the fourth step, when the queue, of which each process sees a part, is in use."""
    run_two_processes(Path(__file__).parent / "swav_ranks.py", tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for encoder, joint in runs().items():
        assert joint["buffers"]["uses_queue"] == 1
        first, second = (rank[encoder] for rank in ranks)
        torch.testing.assert_close((first["loss"] + second["loss"]) / 2, joint["loss"])
        gradient = torch.cat([g.flatten() for g in joint["gradients"].values()])
        for rank in (first, second):
            error = torch.cat([g.flatten() for g in rank["gradients"].values()]) - gradient
            assert error.norm() <= 1e-5 * gradient.norm()
        for name, buffer in first["buffers"].items():
            torch.testing.assert_close(buffer, second["buffers"][name])
            if "queues" not in name:  # whose rows come in the order of the ranks within each view
                torch.testing.assert_close(buffer, joint["buffers"][name])
    assert set(runs()) == set(ENCODERS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"num_prototypes": 1}, "num_prototypes is 1"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations is 0"),
        ({"queue_size": -1}, "queue_size is -1"),
        ({"queue_start_share": 15}, "queue_start_share is 15"),
        ({"freeze_prototypes_share": 1.5}, "freeze_prototypes_share is 1.5"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        SwAVConfig(**fields)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(4, 3, 16, 16\)"):
        build("vit")(joint_batch()["pixel_values"][:, 0])

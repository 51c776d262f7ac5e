"""The run of two processes is in test_moco.py, for all objectives of `contrastive_ranks.py`."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.nnclr import NNCLRConfig, NNCLRForPreTraining
from tests.modeling.vision.contrastive_ranks import joint_batch, nnclr
from tests.modeling.vision.test_simclr import TINY_ENCODERS


def nearest(z, queue):
    """NN(z, Q) of arXiv:2104.14548, Eq. 2: the row of the queue at the least distance, all of length 1."""
    z = z / z.norm()
    return min(queue, key=lambda row: (z - row).square().sum().item())


def eq_3(z, p, queue, tau):
    total = 0.0
    for i in range(len(z)):
        anchor = nearest(z[i], queue)
        scores = [math.exp(F.cosine_similarity(anchor, p[k], dim=0).item() / tau) for k in range(len(p))]
        total -= math.log(scores[i] / sum(scores))
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_equation_3_in_both_directions(temperature):
    model = nnclr("resnet", temperature=temperature)
    z_1, z_2 = (
        model.projection_head(model.encoder(x).last_hidden_state.mean((2, 3))) for x in joint_batch().unbind(1)
    )
    p_1, p_2, queue = model.prediction_head(z_1), model.prediction_head(z_2), list(model.queue.rows)
    expected = (eq_3(z_1, p_2, queue, temperature) + eq_3(z_2, p_1, queue, temperature)) / 2
    assert model(joint_batch()).loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_queue_holds_projections_of_the_first_view():
    model = nnclr("vit")
    z_1 = model.projection_head(model.encoder(joint_batch()[:, 0]).last_hidden_state.mean(1))
    model(joint_batch())
    assert model.queue.num_filled == 0  # not before the step is over
    model.after_optimizer_step(0.5)
    assert model.queue.num_filled == 8
    torch.testing.assert_close(model.queue.rows[:8], F.normalize(z_1, dim=1).detach(), rtol=1e-4, atol=1e-5)
    neighbours, similarity = model.nearest_neighbours(z_1)
    torch.testing.assert_close(neighbours, model.queue.rows[:8])
    torch.testing.assert_close(similarity, torch.ones(8))
    model.eval()(joint_batch())
    model.after_optimizer_step(0.5)
    assert model.queue.num_filled == 8


def test_no_gradient_flows_through_the_neighbours():
    model = nnclr("vit")
    z = torch.randn(4, 8, requires_grad=True)
    assert not any(part.requires_grad for part in model.nearest_neighbours(z))
    model(joint_batch()).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_output():
    output = nnclr("resnet")(joint_batch())
    assert output.logits.shape == (16, 8)
    assert output.targets.tolist() == [*range(8), *range(8)]
    assert output.features.shape == (16, 16)
    assert not output.logits.requires_grad
    assert set(output.diagnostics) == {"neighbour_spread", "neighbour_similarity"}
    assert 0 < output.diagnostics["neighbour_similarity"] < 1
    torch.testing.assert_close(F.cross_entropy(output.logits, output.targets), output.loss.detach())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    sizes = {"projection_hidden_size": 16, "projection_size": 8, "prediction_hidden_size": 16, "queue_size": 12}
    model = NNCLRForPreTraining(NNCLRConfig(encoder_config=TINY_ENCODERS[encoder], **sizes))
    model(joint_batch()).loss.backward()
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    images = joint_batch()[:, 0]
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_defaults_are_the_papers():
    config = NNCLRConfig()
    assert config.encoder_config.depths == (3, 4, 6, 3)
    assert config.projection_sizes == [2048, 2048, 2048, 256]
    assert config.prediction_sizes == [256, 4096, 256]
    assert config.temperature == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"num_projection_layers": 0}, "num_projection_layers is 0"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        NNCLRConfig(**fields)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(8, 3, 16, 16\)"):
        nnclr("vit")(joint_batch()[:, 0])

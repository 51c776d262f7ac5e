"""The run of two processes is in test_moco.py, for all objectives of `contrastive_ranks.py`."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.moco_v3 import MoCoV3Config, MoCoV3ForPreTraining
from tests.modeling.vision.contrastive_ranks import joint_batch, moco_v3
from tests.modeling.vision.test_simclr import TINY_ENCODERS


def ctr(q, k, tau):
    """The function of Algorithm 1 of arXiv:2104.02057, image by image."""
    total = 0.0
    for i in range(len(q)):
        scores = [torch.exp(F.cosine_similarity(q[i], k[j], dim=0) / tau) for j in range(len(k))]
        total = total - torch.log(scores[i] / sum(scores))
    return 2 * tau * total / len(q)


def algorithm_1(model, batches, learning_rate, momenta):
    """The authors' order: the momentum encoder moves before the keys are made."""
    f_q = torch.nn.ModuleDict({**model.student, "prediction_head": model.prediction_head})
    f_q, f_k, losses = copy.deepcopy(f_q), copy.deepcopy(model.student), []
    tau = model.config.temperature

    def project(network, images):
        return network["projection_head"](network["encoder"](images).last_hidden_state.mean((2, 3)))

    for (x_1, x_2), m in zip((batch.unbind(1) for batch in batches), momenta, strict=True):
        q_1, q_2 = f_q["prediction_head"](project(f_q, x_1)), f_q["prediction_head"](project(f_q, x_2))
        with torch.no_grad():
            followed = torch.nn.ModuleDict({name: f_q[name] for name in f_k})
            for key_weight, query_weight in zip(f_k.parameters(), followed.parameters(), strict=True):
                key_weight.copy_(m * key_weight + (1 - m) * query_weight)
            k_1, k_2 = project(f_k, x_1), project(f_k, x_2)
        loss = ctr(q_1, k_2, tau) + ctr(q_2, k_1, tau)
        f_q.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in f_q.parameters():
                weight -= learning_rate * weight.grad
        losses.append(loss.item())
    return losses


def test_four_steps_are_algorithm_1_with_a_momentum_that_rises():
    model, steps, base = moco_v3("resnet"), 4, 0.5
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(32, 2, 3, 16, 16, generator=generator) for _ in range(steps)]  # enough for steady norms
    momenta = [1 - (1 - base) * 0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    expected = algorithm_1(model, batches, 0.02, momenta)
    constant = algorithm_1(model, batches, 0.02, [base] * steps)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.02), []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
        model.after_optimizer_step((step + 1) / steps)
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses != pytest.approx(constant, rel=1e-3)


def test_output():
    model = moco_v3("vit")
    output = model(joint_batch())
    assert output.logits.shape == (16, 8)
    assert output.targets.tolist() == [*range(8), *range(8)]
    assert output.features.shape == (16, 16)
    assert not output.logits.requires_grad
    assert 0 < output.diagnostics["key_spread"] < 1.5
    cross_entropy = F.cross_entropy(output.logits, output.targets)  # over both directions, which the loss adds up
    torch.testing.assert_close(4 * model.config.temperature * cross_entropy, output.loss.detach())


def test_the_order_of_the_views_does_not_matter():
    model = moco_v3("vit")
    torch.testing.assert_close(model(joint_batch()).loss, model(joint_batch().flip(1)).loss)


def test_the_patch_embedding_stays_as_it_was_drawn(tmp_path):
    model = moco_v3("vit")
    model(joint_batch()).loss.backward()
    without = {name for name, p in model.encoder.named_parameters() if p.grad is None}
    assert without == {f"embeddings.patch_embeddings.projection.{name}" for name in ("weight", "bias")}
    model.save_pretrained(tmp_path)
    loaded = MoCoV3ForPreTraining.from_pretrained(tmp_path).train()
    assert not any(p.requires_grad for p in loaded.encoder.embeddings.patch_embeddings.parameters())
    trained = moco_v3("vit", freeze_patch_embedding=False)
    assert all(p.requires_grad for p in trained.encoder.parameters())


@pytest.mark.parametrize("encoder", ["resnet", "convnext"])
def test_an_encoder_without_patches(encoder):
    with pytest.raises(InputError, match=f"'{encoder}' has no patch embedding to freeze"):
        MoCoV3ForPreTraining(MoCoV3Config(encoder_config=TINY_ENCODERS[encoder], pooling="mean"))


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    frozen = encoder in ("vit", "dinov2", "swin")
    sizes = {"mlp_hidden_size": 16, "projection_size": 8, "pooling": "mean", "freeze_patch_embedding": frozen}
    model = MoCoV3ForPreTraining(MoCoV3Config(encoder_config=TINY_ENCODERS[encoder], **sizes))
    model(joint_batch()).loss.backward()
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    images = joint_batch()[:, 0]
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_defaults_are_the_authors():
    config = MoCoV3Config()
    assert (config.encoder_config.hidden_size, config.encoder_config.patch_size) == (768, 16)
    assert config.projection_sizes == [768, 4096, 4096, 256]
    assert config.prediction_sizes == [256, 4096, 256]
    assert (config.temperature, config.momentum, config.pooling) == (0.2, 0.99, "cls")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"num_projection_layers": 0}, "num_projection_layers is 0"),
        ({"num_prediction_layers": 0}, "num_prediction_layers is 0"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        MoCoV3Config(**fields)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(8, 3, 16, 16\)"):
        moco_v3("vit")(joint_batch()[:, 0])

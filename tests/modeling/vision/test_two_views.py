"""What the objectives of two views without negatives have in common."""

import pytest
import torch
from transformers import AutoModel

from hf_ssl.errors import InputError
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.test_simclr import TINY_ENCODERS
from tests.modeling.vision.two_view_ranks import OBJECTIVES, build, joint_batch

pytestmark = pytest.mark.parametrize("objective", OBJECTIVES)


def test_order_of_images_and_of_views_does_not_matter(objective):
    model, pixel_values = build(objective), joint_batch()
    loss = model(pixel_values).loss
    torch.testing.assert_close(model(pixel_values[[2, 0, 3, 1, 5, 4]]).loss, loss)
    torch.testing.assert_close(model(pixel_values.flip(1)).loss, loss)


def test_features_are_the_encoders_first_views_first(objective):
    model, pixel_values = build(objective), joint_batch()
    output = model(pixel_values)
    for view, features in zip(pixel_values.unbind(1), output.features.chunk(2), strict=True):
        torch.testing.assert_close(features, model.encoder(pixel_values=view).last_hidden_state.mean((2, 3)))
    assert not output.features.requires_grad
    assert output.num_predictions == {}
    assert output.hidden_states is None


def test_embedding_then_comparing_is_the_loss(objective):
    model, pixel_values = build(objective), joint_batch()
    assert torch.equal(model.compare(model.embed(pixel_values)).loss, model(pixel_values).loss)


def test_similarities_are_exact_under_autocast(objective):
    """Of the same features in half precision: only the linear layers may differ."""
    model = build(objective, "vit")
    exact = model(joint_batch()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(joint_batch()).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(objective, encoder, tmp_path):
    model = build(objective, encoder_config=TINY_ENCODERS[encoder])
    model(joint_batch()).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain, images = AutoModel.from_pretrained(tmp_path).eval(), joint_batch()[:, 0]
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_class_token_pooling(objective):
    model, pixel_values = build(objective, "vit", pooling="cls").eval(), joint_batch()
    expected = model.encoder(pixel_values=pixel_values[:, 0]).last_hidden_state[:, 0]
    torch.testing.assert_close(model(pixel_values).features[:6], expected)


def test_nothing_waits_for_the_device(objective):
    model = build(objective)
    with NoWaiting():
        model(joint_batch()).loss.backward()


def test_inputs_that_do_not_fit(objective):
    with pytest.raises(InputError, match=r"takes .batch, 2 views"):
        build(objective)(joint_batch()[:, 0])
    with pytest.raises(InputError, match="There is no pooling 'max'"):
        build(objective, pooling="max")
    with pytest.raises(InputError, match="'resnet' has no class token"):
        build(objective, pooling="cls")

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, ImageGPTConfig, ImageGPTForCausalImageModeling

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.igpt import IGPTConfig, IGPTForPreTraining
from tests.modeling.no_waiting import NoWaiting

NUM_COLOURS, NUM_PIXELS = 12, 16


def encoder_config(**fields):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": NUM_COLOURS + 1, "n_positions": NUM_PIXELS}
    return ImageGPTConfig(**{**sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **fields})


def build(**fields):
    torch.manual_seed(0)
    model = IGPTForPreTraining(IGPTConfig(encoder_config=encoder_config(**fields)))
    torch.nn.init.normal_(model.lm_head.weight)  # so that not every colour is as likely as any other
    return model.eval()


def colours(num_images=4):
    return torch.randint(NUM_COLOURS, (num_images, NUM_PIXELS), generator=torch.Generator().manual_seed(1))


def negative_log_likelihood(model, image):
    """Section 2.1 pixel by pixel: each time the encoder reads only what comes before, in a sequence of its own."""
    total = 0.0
    for i, colour in enumerate(image.tolist()):
        before = torch.tensor([[NUM_COLOURS, *image[:i].tolist()]])
        last = model.encoder(input_ids=before).last_hidden_state[0, -1]
        scores = [float(last @ row) for row in model.lm_head.weight]
        total -= math.log(math.exp(scores[colour]) / sum(math.exp(score) for score in scores))
    return total


@torch.no_grad()
def test_loss_is_the_likelihood_pixel_by_pixel():
    model, images = build(), colours(2)
    expected = sum(negative_log_likelihood(model, image) for image in images) / (2 * NUM_PIXELS)
    assert model(images).loss.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_equals_transformers_own_model_with_the_same_weights():
    model, images = build(), colours()
    theirs = ImageGPTForCausalImageModeling(model.encoder.config).eval()
    theirs.transformer.load_state_dict(model.encoder.state_dict())
    theirs.lm_head.load_state_dict(model.lm_head.state_dict())
    shifted = torch.cat([torch.full((4, 1), NUM_COLOURS), images[:, :-1]], dim=1)
    # its own loss shifts the labels, so that of as many inputs it predicts one pixel less
    but_last = theirs(input_ids=shifted, labels=shifted)
    output = model(images)
    torch.testing.assert_close(output.logits.view(4, NUM_PIXELS, -1), but_last.logits)
    logits = output.logits.view(4, NUM_PIXELS, -1)[:, :-1]
    torch.testing.assert_close(F.cross_entropy(logits.flatten(0, 1), images[:, :-1].flatten()), but_last.loss)
    torch.testing.assert_close(F.cross_entropy(but_last.logits.flatten(0, 1), images.flatten()), output.loss)


@torch.no_grad()
def test_no_pixel_sees_itself_or_a_later_one():
    model, images = build(), colours(1)
    other = images.clone()
    other[0, 5] = (images[0, 5] + 1) % NUM_COLOURS
    before, after = (model(tokens).logits for tokens in (images, other))
    assert torch.equal(before[:6], after[:6])
    assert not torch.allclose(before[6], after[6])


def test_at_first_every_colour_is_as_likely():
    torch.manual_seed(0)
    model = IGPTForPreTraining(IGPTConfig(encoder_config=encoder_config()))
    assert model(colours()).loss.item() == pytest.approx(math.log(NUM_COLOURS))


def test_output():
    model, images = build(), colours()
    output = model(images)
    assert output.logits.shape == (4 * NUM_PIXELS, NUM_COLOURS)
    assert torch.equal(output.targets, images.flatten())
    assert output.num_predictions["pixels"] == 4 * NUM_PIXELS
    assert output.features.shape == (4, 32)
    assert not output.logits.requires_grad
    assert not output.features.requires_grad


def test_the_host_never_waits():
    model, images = build().train(), colours()
    with NoWaiting():
        model(images, num_items_in_batch=model.count_predictions({"input_ids": images})).loss.backward()


def test_goes_on_with_an_encoder_and_leaves_one(tmp_path):
    model = build()
    model.export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(colours()).last_hidden_state, model.encoder(colours()).last_hidden_state)
    started = IGPTForPreTraining.from_encoder(tmp_path)
    assert torch.equal(started.encoder.wte.weight, model.encoder.wte.weight)
    assert started.lm_head.weight.abs().sum() == 0


def test_defaults_are_igpt_s():
    encoder = IGPTConfig().encoder_config
    assert (encoder.vocab_size, encoder.n_positions) == (513, 32 * 32)
    assert (encoder.n_layer, encoder.n_embd, encoder.n_head) == (24, 512, 8)
    assert encoder.resid_pdrop == encoder.embd_pdrop == encoder.attn_pdrop == 0


def test_another_encoder():
    with pytest.raises(InputError, match="'vit' reads no colours"):
        IGPTConfig(encoder_config={"model_type": "vit"})


def test_images_of_another_size():
    with pytest.raises(InputError, match="9 pixels an image but the encoder has n_positions=16"):
        build()(colours()[:, :9])

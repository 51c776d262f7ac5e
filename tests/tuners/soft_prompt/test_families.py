"""Soft prompts in every family of encoders."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig, Data2Vec2AudioModel
from hf_ssl.tuners.soft_prompt import extension, layer
from hf_ssl.tuners.soft_prompt.model import prompted_layers
from tests.families import BERT, SPEECH, TEXT, WAVEFORM, padding
from tests.tuners.soft_prompt.tiny import (
    ENCODERS,
    VARIANTS,
    WITHOUT_A_PLACE,
    prompts_of,
    tiny,
    with_prompts,
)

READS_SEQUENCES = [n for n in ENCODERS if VARIANTS.get(n, (n,))[0] in SPEECH.keys() | TEXT.keys()]
PADDED = [n for n in READS_SEQUENCES if n != "audio-spectrogram-transformer"]  # which reads clips of one length
CONVOLUTION_IN_LAYERS = {n for n in ENCODERS if "conformer" in n or "wav2vec2-bert" in n}


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@pytest.mark.parametrize("name", ENCODERS)
def test_prompts_are_among_the_tokens_and_not_in_the_output(name, deep):
    model, inputs = tiny(name, padded=True)
    with torch.no_grad():
        before = model(**inputs, output_hidden_states=True)
    prompted = with_prompts(model, deep=deep)
    output = prompted(**inputs, output_hidden_states=True)

    assert output.logits.shape == before.logits.shape
    assert [h.shape for h in output.hidden_states] == [h.shape for h in before.hidden_states]
    assert torch.equal(output.hidden_states[0], before.hidden_states[0])
    for with_prompt, without in zip(output.hidden_states[1:], before.hidden_states[1:], strict=True):
        assert (with_prompt - without).abs().max() > 1e-3

    trained = {n: p for n, p in prompted.named_parameters() if p.requires_grad}
    assert all("soft_prompt_embeddings.default" in n for n in trained)
    calls = model.base_model.config.num_hidden_layers if deep else 1
    assert sum(len(p) for p in trained.values()) == calls
    output.logits.square().sum().backward()
    for prompt in trained.values():
        assert (prompt.grad.abs().sum(dim=-1) > 0).all()

    with prompted.disable_adapter(), torch.no_grad():
        disabled = prompted(**inputs, output_hidden_states=True)
    assert torch.equal(disabled.logits, before.logits)
    assert all(map(torch.equal, disabled.hidden_states, before.hidden_states))


@pytest.mark.parametrize("name", PADDED)
def test_padding_stays_unseen(name):
    model, inputs = tiny(name, padded=True)
    prompted = with_prompts(model, deep=False)
    (key,) = inputs.keys() - {"attention_mask"}
    others = inputs[key].clone()
    padding = inputs["attention_mask"] == 0
    others[padding] = torch.randint_like(others[padding], 5, 40) if others.dtype == torch.long else 9.0
    with torch.no_grad():
        assert not torch.equal(others, inputs[key])
        torch.testing.assert_close(prompted(**{**inputs, key: others}).logits, prompted(**inputs).logits)


def closed_mask(mask, num_prompts):
    extended = extension.extend_mask(mask, num_prompts)
    extended[..., :num_prompts] = torch.finfo(mask.dtype).min if mask.is_floating_point() else 0
    return extended


@pytest.mark.parametrize("name", sorted(set(PADDED) - CONVOLUTION_IN_LAYERS))
def test_prompts_that_nobody_attends_to_change_nothing(name, monkeypatch):
    # So every token is where it was, for absolute, rotary and relative positions alike.
    model, inputs = tiny(name, padded=True)
    with torch.no_grad():
        before = model(**inputs).logits

    monkeypatch.setitem(extension.EXTENSIONS, "attention_mask", closed_mask)
    with torch.no_grad():
        torch.testing.assert_close(with_prompts(model, deep=True)(**inputs).logits, before)


@pytest.mark.parametrize("name", ["beit: relative positions", "data2vec-vision: relative positions"])
def test_patches_keep_their_relative_positions(name, monkeypatch):
    model, inputs = tiny(name)
    with torch.no_grad():
        before = model(**inputs).logits

    def closed_bias(bias, num_prompts):
        return F.pad(F.pad(bias, (0, 0, num_prompts, 0)), (num_prompts, 0), value=torch.finfo(bias.dtype).min)

    monkeypatch.setattr(layer, "extend_bias", closed_bias)
    monkeypatch.setitem(extension.EXTENSIONS, "relative_position_bias", extension.extend_bias)
    with torch.no_grad():
        torch.testing.assert_close(with_prompts(model, deep=True)(**inputs).logits, before)


def test_images_of_another_size():
    model, inputs = tiny("beit: relative positions")
    prompted = with_prompts(model)
    images = F.interpolate(inputs["pixel_values"], size=(24, 24))
    with torch.no_grad():
        larger = prompted.get_base_model().base_model(images, interpolate_pos_encoding=True)
    assert larger.last_hidden_state.shape == (2, 10, 16)


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@torch.no_grad()
def test_our_own_encoder_without_a_head(deep, monkeypatch):
    torch.manual_seed(0)
    fields = WAVEFORM | {"num_conv_pos_embeddings": 1, "conv_pos_kernel_size": 5}
    encoder = Data2Vec2AudioModel(Data2Vec2AudioConfig(**fields)).eval()
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.3)
    inputs = {"input_values": torch.randn(2, 1600)}
    inputs |= padding(inputs)
    frames = slice(None), slice(10)  # of which even the shorter recording has as many
    before = encoder(**inputs).last_hidden_state[frames]
    prompted = with_prompts(encoder, deep=deep)
    output = prompted(**inputs).last_hidden_state[frames]
    assert (output - before).abs().max() > 1e-3
    others = inputs["input_values"].masked_fill(inputs["attention_mask"] == 0, 9.0)
    torch.testing.assert_close(prompted(**inputs | {"input_values": others}).last_hidden_state[frames], output)
    monkeypatch.setitem(extension.EXTENSIONS, "attention_mask", closed_mask)
    torch.testing.assert_close(prompted(**inputs).last_hidden_state[frames], before)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "modernbert: windows", "vit", "wav2vec2"])
def test_both_attentions_agree_and_autocast_is_near(name, implementation):
    model, inputs = tiny(name, padded=True)
    prompted = with_prompts(model, deep=True)
    with torch.no_grad():
        expected = prompted(**inputs).logits
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(prompted(**inputs).logits, expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = prompted(**inputs).logits
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.1 * expected.abs().max().item())


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@pytest.mark.parametrize(
    "name",
    ["beit: relative positions", "bert", "data2vec-vision", "deberta-v2", "modernbert", "vit", "wav2vec2", "wavlm"],
)
def test_gradient_checkpointing_gives_the_same_gradients(name, deep):
    model, inputs = tiny(name, padded=True)
    model.config.apply_spec_augment = False
    prompted = with_prompts(model, deep=deep, dropout=0.1).train()
    gradients = []
    # With reentrant checkpoints a backward pass of WavLM, whose layers hand on a bias, had not ended after a minute;
    # whether it does without prompts is not known.
    kinds = [False] if name == "wavlm" else [False, True]
    for checkpointing in [None, *({"use_reentrant": kind} for kind in kinds)]:
        if checkpointing:
            prompted.gradient_checkpointing_enable(checkpointing)
        prompted.zero_grad()
        torch.manual_seed(0)
        prompted(**inputs).logits.square().sum().backward()
        gradients.append([prompt.grad.clone() for prompt in prompts_of(prompted)])
    assert len(gradients[0]) == (2 if deep else 1)
    for other in gradients[1:]:
        for gradient, expected in zip(other, gradients[0], strict=True):
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", sorted(WITHOUT_A_PLACE))
def test_an_encoder_without_a_place_for_prompts_is_refused(name):
    model, _ = tiny(name)
    with pytest.raises(InputError, match=rf"\b{name} encoder .*; take another method of fine-tuning, such as LoRA"):
        with_prompts(model)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("longformer", {"attention_window": 4}),
        ("roformer", {"embedding_size": 16}),
        ("squeezebert", {"embedding_size": 16}),
        ("xlnet", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 40}),
    ],
)
def test_an_encoder_whose_layers_take_something_else_is_refused(family, fields):
    model = AutoModel.from_config(AutoConfig.for_model(family, **(fields if family == "xlnet" else BERT | fields)))
    with pytest.raises(InputError, match=f"layers of a {family} encoder .*, which soft prompts cannot join; take"):
        prompted_layers(model)


def test_another_attention_is_refused():
    model, _ = tiny("bert")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(InputError, match="flex_attention"):
        with_prompts(model)

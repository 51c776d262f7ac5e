"""A prefix on every family of encoders."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, ViTConfig

import hf_ssl  # noqa: F401  registers the encoders that only hf_ssl has
from hf_ssl.errors import InputError
from hf_ssl.tuners.prefix import PrefixConfig, attention, own_attention
from hf_ssl.tuners.prefix.joining import join
from hf_ssl.tuners.prefix.layer import PrefixLayer
from hf_ssl.tuners.prefix.model import prefix_layers
from tests.families import BERT, IMAGES, SPEECH, SPEECH_INPUTS, TEXT, VIT, WAVEFORM, classifier

FAMILIES = sorted(IMAGES | SPEECH | TEXT)
WITHOUT_ATTENTION = {"convnext", "convnextv2", "resnet"}
WITH_ATTENTION = sorted(set(FAMILIES) - WITHOUT_ATTENTION)
P = 3


@torch.no_grad()
def with_noise(model):
    """Away from the start, where a prefix moves the output of a tiny model by less than float32 shows."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "encoder_prefix_" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def adapt(family, **options):
    model, inputs = classifier(family, padded=True)
    return with_noise(get_peft_model(model, PrefixConfig(num_tokens=P, **options)).eval()), inputs


@pytest.mark.parametrize("options", [{}, {"reparametrisation": 5}], ids=["direct", "reparametrised"])
@pytest.mark.parametrize("family", WITH_ATTENTION)
def test_a_prefix_is_learned_and_nothing_else(family, options):
    model, inputs = classifier(family, padded=True)
    model.requires_grad_(False)
    with torch.no_grad():
        before = model(**inputs)
    adapted = with_noise(get_peft_model(model, PrefixConfig(num_tokens=P, **options)).eval())
    output = adapted(**inputs)
    assert output.logits.shape == before.logits.shape
    assert not torch.equal(output.logits, before.logits)

    output.logits.square().sum().backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in adapted.named_parameters() if "encoder_prefix_" in name}
    for name, parameter in adapted.named_parameters():
        if name in trained:
            assert parameter.grad.abs().max() > 0, name

    with torch.no_grad(), adapted.disable_adapter():
        assert torch.equal(adapted(**inputs).logits, before.logits)
    with torch.no_grad():
        assert torch.equal(adapted.unload()(**inputs).logits, before.logits)
    assert not prefix_layers(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", WITH_ATTENTION)
@torch.no_grad()
def test_every_attention_of_the_encoder_runs_with_its_prefix(family, monkeypatch):
    adapted, inputs = adapt(family)
    lengths = []

    def counted(prefix, states):
        lengths.append(len(prefix))
        return join(prefix, states)

    monkeypatch.setattr(attention, "join", counted)
    monkeypatch.setattr(own_attention, "join", counted)
    adapted(**inputs)
    config = adapted.base_model.model.base_model.config
    num_layers = sum(config.depths) if "swin" in family else config.num_hidden_layers
    assert lengths == [P] * 2 * num_layers


@pytest.mark.parametrize("family", sorted(WITHOUT_ATTENTION))
def test_a_family_without_attention_is_refused(family):
    model, _ = classifier(family)
    with pytest.raises(InputError, match=f"A {family} encoder has no attention that a prefix can be joined to"):
        get_peft_model(model, PrefixConfig())


OWN_ATTENTION = {"data2vec-vision", "deberta", "deberta-v2", "mpnet", "swinv2", "wavlm"}
"""Families that compute their attention themselves."""


@pytest.mark.parametrize("family", sorted(set(WITH_ATTENTION) - OWN_ATTENTION))
@torch.no_grad()
def test_sdpa_and_eager_agree_and_the_weights_over_prefix_and_tokens_sum_to_one(family):
    adapted, inputs = adapt(family)
    model = adapted.get_base_model()
    assert model.config._attn_implementation == "sdpa"
    expected = adapted(**inputs).logits
    model.set_attn_implementation("eager")
    output = adapted(**inputs, output_attentions=True)
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)
    model.set_attn_implementation("sdpa")
    assert torch.equal(adapted(**inputs).logits, expected)
    for weights in output.attentions:
        assert weights.shape[-1] == weights.shape[-2] + P
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), rtol=0, atol=1e-5)


PADDED = [*TEXT, "wav2vec2-bert", "hubert", "wavlm", "data2vec2-audio"]


@pytest.mark.parametrize("family", PADDED)
@torch.no_grad()
def test_what_is_padded_changes_nothing(family):
    fields = TEXT.get(family) or SPEECH.get(family) or WAVEFORM
    # A norm over the whole recording would see the padding long before the attention does.
    options = {"feat_extract_norm": "layer"} if fields is WAVEFORM else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **fields | options)
    adapted = with_noise(get_peft_model(AutoModel.from_config(config), PrefixConfig(num_tokens=P)).eval())
    name, shape = SPEECH_INPUTS.get(family, ("input_values", (2, 1600)))
    values = torch.randint(5, 40, (2, 7)) if family in TEXT else torch.randn(shape)
    name = "input_ids" if family in TEXT else name
    length = 4 if family in TEXT else shape[1] // 2
    mask = torch.ones(values.shape[:2], dtype=torch.long)
    mask[1, length:] = 0
    hidden = adapted(**{name: values}, attention_mask=mask).last_hidden_state
    other = values.clone()
    other[1, length:] = other[1, length:] - 1 if family in TEXT else 7.0
    changed = adapted(**{name: other}, attention_mask=mask).last_hidden_state
    real = length if family in TEXT else hidden.shape[1] * length // values.shape[1] - 1
    torch.testing.assert_close(changed[1, :real], hidden[1, :real], rtol=0, atol=1e-6)
    torch.testing.assert_close(changed[0], hidden[0], rtol=0, atol=1e-6)
    alone = adapted(**{name: values[1:, :length]}).last_hidden_state
    torch.testing.assert_close(hidden[1, :real], alone[0, :real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["beit", "data2vec-vision", "swin", "wav2vec2-bert", "wav2vec2-conformer", "mpnet"])
@torch.no_grad()
def test_a_bias_of_relative_positions_stays_with_its_tokens(family):
    """With keys of zero, a prefix takes its share of the weights and leaves those of the tokens in proportion."""
    _, inputs = classifier(family)
    options = {
        "beit": {"use_relative_position_bias": True},
        "data2vec-vision": {"use_relative_position_bias": True},
        "wav2vec2-conformer": {"position_embeddings_type": "relative"},
    }
    fields = (IMAGES | SPEECH | TEXT)[family] | options.get(family, {})
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields, attn_implementation="eager")).eval()
    for name, parameter in model.named_parameters():
        if "position_bias" in name:
            parameter.normal_()
    adapted = get_peft_model(model, PrefixConfig(num_tokens=P)).eval()
    layer = prefix_layers(adapted)[0]
    layer.encoder_prefix_key_values["default"].zero_()
    seen = {}
    layer.base_layer.register_forward_hook(lambda module, inputs, output: seen.update(weights=output[1]))
    kwargs = {"output_attentions": True} if family in OWN_ATTENTION else {}
    adapted(**inputs, **kwargs)
    joined = seen["weights"]
    with adapted.disable_adapter():
        adapted(**inputs, **kwargs)
    without = seen["weights"]
    renormalised = joined[..., P:] / joined[..., P:].sum(-1, keepdim=True)
    torch.testing.assert_close(renormalised, without, rtol=1e-4, atol=1e-6)
    assert (joined[..., :P] > 0).all()


@torch.no_grad()
def test_each_of_alberts_calls_has_its_own_prefix_and_starts_over_after_an_exception():
    adapted, inputs = adapt("albert")
    (layer,) = prefix_layers(adapted)
    prefix = layer.encoder_prefix_key_values["default"]
    assert prefix.shape == (2, 2, P, 16)
    expected = adapted(**inputs).logits
    assert torch.equal(adapted(**inputs).logits, expected)

    class Interrupted(Exception):
        pass

    def interrupt(module, inputs, output):
        raise Interrupted

    hook = layer.base_layer.register_forward_hook(interrupt)
    with pytest.raises(Interrupted):
        adapted(**inputs)
    hook.remove()
    assert torch.equal(adapted(**inputs).logits, expected)
    assert layer.base_layer.config is adapted.get_base_model().config

    copied = copy.deepcopy(adapted)
    prefix.copy_(prefix.flip(0))
    assert not torch.allclose(adapted(**inputs).logits, expected)
    assert torch.equal(copied(**inputs).logits, expected)


@torch.no_grad()
def test_alberts_groups_are_called_as_often_as_they_have_layers():
    """Two groups of two attentions and five layers: the first group runs three times, the second twice."""
    torch.manual_seed(0)
    options = {"embedding_size": 16, "num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2}
    model = AutoModel.from_config(AutoConfig.for_model("albert", **BERT | options)).eval()
    adapted = with_noise(get_peft_model(model, PrefixConfig(num_tokens=P)))
    shapes = [tuple(layer.encoder_prefix_key_values["default"].shape) for layer in prefix_layers(adapted)]
    assert shapes == [(3, 2, P, 16)] * 2 + [(2, 2, P, 16)] * 2
    adapted(input_ids=torch.tensor([[5, 6, 7]]))
    assert [layer._num_calls_made for layer in prefix_layers(adapted)] == [3, 3, 2, 2]


def test_recomputing_a_layer_in_the_backward_pass_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        adapted, inputs = adapt("vit")
        adapted.train()
        if recompute:
            adapted.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        adapted(**inputs).logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in adapted.parameters() if parameter.requires_grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_albert_has_no_gradient_checkpointing_that_could_miscount():
    model, _ = classifier("albert")
    assert not model.supports_gradient_checkpointing


@pytest.mark.parametrize("family", ["bert", "vit", "hubert", "wavlm", "deberta-v2"])
@torch.no_grad()
def test_a_model_with_the_same_config_object_notices_nothing(family):
    _, inputs = classifier(family)
    one = AutoModel.from_config(AutoConfig.for_model(family, **(IMAGES | SPEECH | TEXT)[family])).eval()
    other = type(one)(one.config).eval()
    assert other.config is one.config
    expected, fields = other(**inputs)[0], one.config.to_dict()
    adapted = with_noise(get_peft_model(one, PrefixConfig(num_tokens=P)).eval())
    views = []
    for layer in prefix_layers(adapted):
        layer.base_layer.register_forward_hook(lambda *_: views.append(other(**inputs)[0]))
    adapted(**inputs)
    assert len(views) == 2
    assert all(torch.equal(view, expected) for view in [*views, other(**inputs)[0]])
    assert one.config._attn_implementation == other.config._attn_implementation != "encoder_prefix"
    assert one.config.to_dict() == fields


class StudentAndTeacher(PreTrainedModel):
    config_class = ViTConfig
    base_model_prefix = "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config, add_pooling_layer=False)
        self.teacher = AutoModel.from_config(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, 2)
        self.post_init()


def test_a_teacher_is_left_alone():
    adapted = get_peft_model(StudentAndTeacher(ViTConfig(**VIT)), PrefixConfig())
    names = [name for name, module in adapted.named_modules() if isinstance(module, PrefixLayer)]
    assert names == [f"base_model.model.encoder.layers.{layer}.attention" for layer in (0, 1)]


def test_the_encoder_that_only_hf_ssl_has_takes_a_prefix():
    model = AutoModel.from_config(AutoConfig.for_model("data2vec2-audio", **WAVEFORM)).eval()
    inputs = torch.randn(2, 1600)
    with torch.no_grad():
        before = model(inputs).last_hidden_state
    adapted = with_noise(get_peft_model(model, PrefixConfig(num_tokens=P)).eval())
    output = adapted(inputs).last_hidden_state
    assert output.shape == before.shape
    assert (output - before).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_prefix_in_single_precision_joins_a_model_in_half(dtype):
    for family in ("bert", "wavlm"):
        model, inputs = classifier(family, padded=True)
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        adapted = get_peft_model(model.to(dtype), PrefixConfig(num_tokens=P)).eval()
        assert all(
            layer.encoder_prefix_key_values["default"].dtype == torch.float32 for layer in prefix_layers(adapted)
        )
        assert adapted(**inputs).logits.dtype == dtype

"""What prompted layers compute, against layers run by hand."""

import copy
import types

import pytest
import torch
from transformers import AlbertModel, BertConfig, BertModel, ViTModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.soft_prompt import SoftPromptConfig
from tests.tuners.soft_prompt.tiny import prompts_of, tiny, with_prompts


def states_by_hand(layers, states, prompts, attention_mask=None):
    """VPT, section 3.2: `[class token, prompts, others]` through all layers; a later prompt replaces the former."""
    num_prompts = prompts[0].shape[1]
    for i, layer in enumerate(layers):
        if i < len(prompts):
            others = states[:, 1:] if i == 0 else states[:, 1 + num_prompts :]
            states = torch.cat([states[:, :1], prompts[i].expand(len(states), -1, -1), others], dim=1)
        states = layer(states, attention_mask)
    return torch.cat([states[:, :1], states[:, 1 + num_prompts :]], dim=1)


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@torch.no_grad()
def test_vit_by_hand(deep):
    model, inputs = tiny("vit")
    plain: ViTModel = copy.deepcopy(model.vit)
    prompted = with_prompts(model, deep=deep)
    prompts = prompts_of(prompted)
    assert len(prompts) == (2 if deep else 1)
    expected = plain.layernorm(states_by_hand(plain.layers, plain.embeddings(**inputs), prompts))
    torch.testing.assert_close(model.vit(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@torch.no_grad()
def test_bert_by_hand(deep):
    model, inputs = tiny("bert", padded=True)
    plain: BertModel = copy.deepcopy(model.bert)
    prompted = with_prompts(model, deep=deep)
    mask = inputs["attention_mask"].bool()
    mask = torch.cat([mask[:, :1], mask.new_ones(2, 3), mask[:, 1:]], dim=1)[:, None, None]
    embedded = plain.embeddings(inputs["input_ids"])
    expected = states_by_hand(plain.encoder.layer, embedded, prompts_of(prompted), mask)
    torch.testing.assert_close(model.bert(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@torch.no_grad()
def test_the_one_layer_of_albert_has_other_deep_prompts_each_time(deep):
    model, inputs = tiny("albert", num_hidden_layers=3)
    plain: AlbertModel = copy.deepcopy(model.albert)
    prompted = with_prompts(model, deep=deep)
    (prompts,) = prompts_of(prompted)
    assert prompts.shape == (3 if deep else 1, 3, 16)
    embedded = plain.encoder.embedding_hidden_mapping_in(plain.embeddings(inputs["input_ids"]))
    layer = plain.encoder.albert_layer_groups[0].albert_layers[0]
    expected = states_by_hand([layer] * 3, embedded, list(prompts[:, None]))
    for _ in range(2):  # the calls are counted anew
        torch.testing.assert_close(model.albert(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@torch.no_grad()
def test_prompts_of_a_conformer_are_frames_before_the_recording(deep):
    model, inputs = tiny("wav2vec2-conformer")
    encoder = copy.deepcopy(model.wav2vec2_conformer)
    prompted = with_prompts(model, deep=deep)
    frames = encoder.feature_projection(encoder.feature_extractor(**inputs).transpose(1, 2))[0]
    prompts = prompts_of(prompted)
    states = torch.cat([prompts[0].expand(2, -1, -1), frames], dim=1)
    distances = encoder.encoder.embed_positions(states)
    torch.testing.assert_close(distances[:, 3:-3], encoder.encoder.embed_positions(frames))
    for i, layer in enumerate(encoder.encoder.layers):
        if deep:
            states = torch.cat([prompts[i].expand(2, -1, -1), states[:, 3:]], dim=1)
        states = layer(states, relative_position_embeddings=distances)
    expected = encoder.encoder.layer_norm(states)[:, 3:]
    torch.testing.assert_close(model.wav2vec2_conformer(**inputs).last_hidden_state, expected)


@torch.no_grad()
def test_several_active_prompts_stand_one_after_the_other():
    model, inputs = tiny("bert")
    plain = copy.deepcopy(model.bert)
    prompted = with_prompts(model)
    prompted.add_adapter("other", SoftPromptConfig(num_tokens=2))
    prompted.base_model.set_adapter(["default", "other"])
    both = torch.cat([prompts_of(prompted)[0], prompts_of(prompted, "other")[0]], dim=1)
    assert both.shape == (1, 5, 16)
    expected = states_by_hand(plain.encoder.layer, plain.embeddings(inputs["input_ids"]), [both])
    torch.testing.assert_close(model.bert(**inputs).last_hidden_state, expected)


@torch.no_grad()
def test_the_longest_input_stays_as_long():
    model, _ = tiny("bert")
    length = model.config.max_position_embeddings
    assert isinstance(model.config, BertConfig)
    input_ids = torch.randint(5, 40, (2, length))
    plain = copy.deepcopy(model.bert)
    prompted = with_prompts(model, num_tokens=30)  # more than positions
    expected = states_by_hand(plain.encoder.layer, plain.embeddings(input_ids), prompts_of(prompted))
    torch.testing.assert_close(model.bert(input_ids).last_hidden_state, expected)
    assert expected.shape == (2, length, 16)


@torch.no_grad()
def test_a_dropped_first_layer_leaves_the_prompts_to_the_next(monkeypatch):
    model, inputs = tiny(
        "wav2vec2",
        layerdrop=0.5,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        activation_dropout=0.0,
    )
    model.config.apply_spec_augment = False
    prompted = with_prompts(model).train()
    draws = iter([0.0, 1.0, 1.0, 0.0])
    monkeypatch.setattr(torch, "rand", lambda *size: torch.tensor(next(draws)))
    first_dropped, last_dropped = prompted(**inputs).logits, prompted(**inputs).logits

    model.config.layerdrop = 0.0
    layers = model.wav2vec2.encoder.layers
    for kept, dropped_logits in ((1, first_dropped), (0, last_dropped)):
        model.wav2vec2.encoder.layers = torch.nn.ModuleList([layers[kept]])
        torch.testing.assert_close(prompted(**inputs).logits, dropped_logits)


@torch.no_grad()
def test_dropout_is_of_the_prompts_alone():
    model, inputs = tiny("vit")
    prompted = with_prompts(model, dropout=0.5)
    expected = prompted(**inputs).logits
    prompted.train()  # the model's own dropout is 0
    torch.manual_seed(1)
    dropped = prompted(**inputs).logits
    assert not torch.allclose(dropped, expected)
    torch.manual_seed(1)
    (prompt,) = prompts_of(prompted)
    kept = torch.nn.functional.dropout(prompt[0].expand(2, -1, -1), 0.5)
    plain = copy.deepcopy(model)
    prompted.unload()
    states = torch.cat([kept, model.vit.embeddings(**inputs)], dim=1)
    for layer in model.vit.layers:
        states = layer(states)
    by_hand = model.classifier(model.vit.layernorm(states[:, 3:])[:, 0])
    torch.testing.assert_close(dropped, by_hand)
    assert plain(**inputs).logits.shape == by_hand.shape


@torch.no_grad()
def test_a_copy_has_prompts_of_its_own():
    model, inputs = tiny("beit: relative positions")
    prompted = with_prompts(model)
    expected = prompted(**inputs).logits
    duplicate = copy.deepcopy(prompted)
    prompts_of(prompted)[0].zero_()
    torch.testing.assert_close(duplicate(**inputs).logits, expected)
    assert not torch.allclose(prompted(**inputs).logits, expected)


@pytest.mark.slow
def test_compiles():
    model, inputs = tiny("bert", padded=True)
    prompted = with_prompts(model, deep=True)
    with torch.no_grad():
        compiled = torch.compile(prompted, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(**inputs).logits, prompted(**inputs).logits)


@torch.no_grad()
def test_layers_run_one_by_one_need_deep_prompts():
    model, _ = tiny("bert")
    states = torch.randn(2, 5, 16)
    prompted = with_prompts(model)
    with pytest.raises(InputError, match="run the encoder whole, or train one with deep=True"):
        model.bert.encoder.layer[0](states)
    prompted.unload()
    with_prompts(model, deep=True)
    for layer in model.bert.encoder.layer:
        states = layer(states[:1])
    assert states.shape == (1, 5, 16)


@torch.no_grad()
def test_a_batch_that_shrinks_needs_deep_prompts():
    model, inputs = tiny("bert")
    with_prompts(model)
    model.bert.encoder.layer[1].register_forward_pre_hook(lambda layer, args: (args[0][:1], *args[1:]))
    with pytest.raises(InputError, match="keep the batch whole"):
        model(**inputs)


@torch.no_grad()
def test_unloaded_model_is_the_plain_one():
    model, inputs = tiny("data2vec-vision: relative positions")
    before = model(**inputs).logits
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    forwards = {name: m.forward.__func__ for name, m in model.named_modules()}
    prompted = with_prompts(model)
    assert not torch.equal(prompted(**inputs).logits, before)
    plain = prompted.unload()
    assert plain is model
    assert {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in plain.named_modules()} == hooks
    assert {name: m.forward.__func__ for name, m in plain.named_modules()} == forwards
    assert torch.equal(plain(**inputs).logits, before)


@torch.no_grad()
def test_a_forward_that_the_layer_had_of_its_own_comes_back():
    model, inputs = tiny("vit")

    def doubled(self, *args, **kwargs):
        return 2 * type(self).forward(self, *args, **kwargs)

    layer = model.vit.layers[0]
    layer.forward = types.MethodType(doubled, layer)
    before = model(**inputs).logits
    prompted = with_prompts(model)
    with prompted.disable_adapter():
        assert torch.equal(prompted(**inputs).logits, before)
    assert torch.equal(prompted.unload()(**inputs).logits, before)
    assert vars(layer)["forward"].__func__ is doubled

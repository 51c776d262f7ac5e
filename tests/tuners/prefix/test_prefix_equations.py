"""What a prefix computes: against loops from the paper, against PEFT's prefix tuning, against real tokens."""

import copy
import math

import pytest
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from hf_ssl.errors import InputError
from hf_ssl.tuners.prefix import PrefixConfig
from hf_ssl.tuners.prefix.attention import attend_with_prefix, key_width, takes_prefix
from hf_ssl.tuners.prefix.model import prefix_layers
from hf_ssl.tuners.prefix.own_attention import OWN_ATTENTION
from tests.families import BERT, IMAGES, SPEECH, TEXT, classifier

P = 3
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 24, "attn_pdrop": 0.0}
IDS = torch.tensor([[6, 9, 7, 12, 30], [8, 5, 11, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@torch.no_grad()
def give(model, key_values):
    """Set the prefix of each layer: one `(2, P, width)` a layer."""
    for layer, value in zip(prefix_layers(model), key_values, strict=True):
        layer.encoder_prefix_key_values["default"].copy_(value[None])


def naive_head(queries, keys, values):
    """softmax(q k / sqrt(d)) v, one query and one key at a time; the keys begin with those of the prefix."""
    context = torch.zeros(len(queries), values.shape[1])
    for i, query in enumerate(queries):
        scores = [math.exp(float(query @ key) / math.sqrt(len(query))) for key in keys]
        for score, value in zip(scores, values, strict=True):
            context[i] += score / sum(scores) * value
    return context


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_each_head_attends_to_the_prefix_and_the_tokens_that_are_not_padding(implementation):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**BERT, attn_implementation=implementation)).eval()
    layer_input = {}
    attention = model.encoder.layer[0].attention.self
    attention.register_forward_pre_hook(lambda module, inputs: layer_input.update(hidden=inputs[0]))
    outputs = {}
    attention.register_forward_hook(lambda module, inputs, output: outputs.update(context=output[0]))
    adapted = get_peft_model(model, PrefixConfig(num_tokens=P))
    prefix = torch.randn(2, 2, P, 16)
    give(adapted, prefix)
    with torch.no_grad():
        adapted(input_ids=IDS, attention_mask=MASK)
        hidden = layer_input["hidden"]
        query, key, value = attention.query(hidden), attention.key(hidden), attention.value(hidden)
    for row in range(2):
        real = MASK[row].bool()
        for head in (slice(0, 8), slice(8, 16)):
            expected = naive_head(
                query[row, :, head],
                torch.cat([prefix[0, 0, :, head], key[row, real, head]]),
                torch.cat([prefix[0, 1, :, head], value[row, real, head]]),
            )
            torch.testing.assert_close(outputs["context"][row, :, head], expected, rtol=0, atol=1e-6)


def theirs_and_ours(model_class, config, task_type):
    """PEFT's prefix tuning and ours of the same model with the same keys and values."""
    torch.manual_seed(0)
    base = model_class(config)
    ours = get_peft_model(copy.deepcopy(base), PrefixConfig(num_tokens=P)).eval()
    theirs = get_peft_model(base, PrefixTuningConfig(task_type=task_type, num_virtual_tokens=P)).eval()
    flat = theirs.prompt_encoder["default"].embedding.weight.detach()  # (P, layers * 2 * width)
    give(ours, flat.unflatten(-1, (-1, 2, flat.shape[1] // len(prefix_layers(ours)) // 2)).permute(1, 2, 0, 3))
    return theirs, ours


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK), None], ids=["padded", "full", "none"])
@torch.no_grad()
def test_on_a_causal_language_model_it_is_that_of_peft(implementation, mask):
    """PEFT's prefix takes the first positions; ours takes none, so the tokens are told theirs."""
    config = GPT2Config(**GPT2, attn_implementation=implementation)
    theirs, ours = theirs_and_ours(GPT2LMHeadModel, config, TaskType.CAUSAL_LM)
    positions = torch.arange(P, P + 5)[None].expand(2, -1)
    expected = theirs(input_ids=IDS, attention_mask=mask).logits
    actual = ours(input_ids=IDS, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    with ours.disable_adapter():
        assert (ours(input_ids=IDS, position_ids=positions).logits - expected).abs().max() > 1e-4


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_on_bert_it_is_that_of_peft_with_the_positions_left_alone(implementation):
    config = BertConfig(**BERT, num_labels=3, attn_implementation=implementation)
    theirs, ours = theirs_and_ours(BertForSequenceClassification, config, TaskType.SEQ_CLS)
    expected = theirs.get_base_model()(
        input_ids=IDS,
        attention_mask=torch.cat([torch.ones(2, P, dtype=torch.long), MASK], dim=1),
        past_key_values=theirs.get_prompt(batch_size=2),
        position_ids=torch.arange(5)[None],
    )
    actual = ours(input_ids=IDS, attention_mask=MASK)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_a_prefix_made_of_the_keys_and_values_of_real_tokens_is_these_tokens(implementation):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**GPT2, attn_implementation=implementation)).eval()
    whole = model(input_ids=IDS[:1], use_cache=True)
    cached = [(layer.keys, layer.values) for layer in model(input_ids=IDS[:1, :P]).past_key_values.layers]
    # (1, heads, P, head_dim) -> (2, P, width)
    key_values = [torch.cat(pair).transpose(1, 2).flatten(2) for pair in cached]
    adapted = get_peft_model(model, PrefixConfig(num_tokens=P)).eval()
    give(adapted, key_values)
    rest = adapted(input_ids=IDS[:1, P:], position_ids=torch.arange(P, 5)[None])
    torch.testing.assert_close(rest.logits, whole.logits[:, P:], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_prefix_stays_before_what_a_causal_model_generates():
    """Token by token from the cache, which does not hold the prefix, it is the same as all at once."""
    torch.manual_seed(0)
    adapted = get_peft_model(GPT2LMHeadModel(GPT2Config(**GPT2)), PrefixConfig(num_tokens=P)).eval()
    give(adapted, torch.randn(2, 2, P, 16))
    whole = adapted(input_ids=IDS[:1]).logits
    cache, steps = None, []
    for token in IDS[0]:
        output = adapted(input_ids=token[None, None], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-6)


class FourWays(nn.Module):
    """One attention with four projections, of which the narrowest makes keys: two query heads share one."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(16, width) for width in (16, 8, 8, 16))


def test_the_width_of_keys_is_that_of_the_narrowest_projection():
    assert key_width(FourWays()) == 8
    assert key_width(GPT2LMHeadModel(GPT2Config(**GPT2)).transformer.h[0].attn) == 16
    assert (
        key_width(AutoModel.from_config(AutoConfig.for_model("modernbert", **TEXT["modernbert"])).layers[0].attn) == 16
    )


OWN = [
    ("wavlm", {}),
    ("data2vec-vision", {}),
    ("data2vec-vision", {"use_relative_position_bias": True}),
    ("data2vec-vision", {"use_shared_relative_position_bias": True, "attn_implementation": "eager"}),
    ("mpnet", {}),
    ("swinv2", {}),
    ("swinv2", {"depths": [2, 2], "window_size": 4}),  # whose windows are shifted in every second layer
    ("deberta", {}),
    ("deberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    ("deberta-v2", {}),
    ("deberta-v2", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    ("deberta-v2", {"relative_attention": True, "pos_att_type": ["p2c"], "position_buckets": 4}),
]


@pytest.mark.parametrize(("family", "options"), OWN)
@torch.no_grad()
def test_an_attention_that_a_family_computes_itself_is_its_own_with_an_empty_prefix(family, options):
    _, inputs = classifier(family, padded=True)
    fields = (IMAGES | SPEECH | TEXT)[family]
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields | options)).eval()
    for parameter in model.parameters():  # biases of positions start from zero
        parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = model(**inputs).last_hidden_state
    real = expected.new_ones(expected.shape[:2], dtype=torch.bool)
    if "attention_mask" in inputs and family != "wavlm":
        real = inputs["attention_mask"].bool()

    modules = [module for module in model.modules() if type(module) in OWN_ATTENTION]
    assert len(modules) == (4 if "depths" in options else 2)
    ran = []
    for module in modules:
        forward, width = module.forward, key_width(module)

        def with_empty_prefix(*args, module=module, forward=forward, width=width, **kwargs):
            del module.forward  # what runs is then the module with nothing of ours
            ran.append(module)
            output = attend_with_prefix(module, torch.empty(2, 0, width), *args, **kwargs)
            return output

        module.forward = with_empty_prefix
    torch.testing.assert_close(model(**inputs).last_hidden_state[real], expected[real], rtol=1e-5, atol=1e-5)
    assert ran == modules
    assert not any("forward" in vars(module) for module in modules)


def test_heads_that_are_mixed_take_no_prefix():
    model = AutoModel.from_config(AutoConfig.for_model("deberta", **TEXT["deberta"] | {"talking_head": True}))
    adapted = get_peft_model(model, PrefixConfig())
    with pytest.raises(InputError, match="cannot be joined to DeBERTa with talking_head"):
        adapted(input_ids=IDS)


def test_what_takes_a_prefix():
    model = BertModel(BertConfig(**BERT))
    assert takes_prefix(model.encoder.layer[0].attention.self)
    assert not takes_prefix(model.encoder.layer[0].attention)
    assert not takes_prefix(nn.MultiheadAttention(8, 2))

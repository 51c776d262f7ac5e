"""What a config says, may leave open, and may not say."""

import pytest
from peft import get_peft_model
from transformers import AutoConfig, AutoModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck import VARIANTS, BottleneckConfig, BottleneckLayer
from tests.families import VIT, classifier


def test_named_and_excluded_modules():
    model, _ = classifier("bert")
    targets = {"target_modules": ["output.dense"], "exclude_modules": ["attention.output.dense"]}
    adapted = get_peft_model(model, BottleneckConfig(**targets))
    names = [n for n, m in adapted.named_modules() if isinstance(m, BottleneckLayer)]
    assert names == [f"base_model.model.bert.encoder.layer.{i}.output.dense" for i in range(2)]


def test_a_bare_encoder():
    encoder = AutoModel.from_config(AutoConfig.for_model("vit", **VIT))
    adapted = get_peft_model(encoder, BottleneckConfig(variant="parallel"))
    names = [n for n, m in adapted.named_modules() if isinstance(m, BottleneckLayer)]
    assert names == [f"base_model.model.layers.{i}.mlp.fc2" for i in range(2)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "houlsbi"}, "no variant.*'houlsbi'; did you mean 'houlsby'"),
        ({"activation": "gelo"}, "no activation 'gelo'; did you mean 'gelu'"),
        ({"bottleneck_size": 8, "reduction_factor": 2}, "bottleneck_size 8 and reduction_factor 2.*one of them"),
        ({"bottleneck_size": 0}, "bottleneck_size is 0; it has to be greater than 0"),
        ({"reduction_factor": -1.0}, "reduction_factor is -1.0"),
        ({"dropout": 1.0}, r"dropout is 1.0; it has to be in \[0, 1\)"),
        ({"variant": "pfeiffer", "train_layer_norms": True}, "pfeiffer variant keeps.*LayerNorms frozen"),
    ],
)
def test_what_cannot_be_used(fields, message):
    with pytest.raises(InputError, match=message):
        BottleneckConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["word_embeddings"]}, "word_embeddings is a Embedding.*name linear layers"),
        ({"variant": "parallel", "target_modules": ["attention.output.dense"]}, "not the output projection.*houlsby"),
    ],
)
def test_modules_that_cannot_be_followed(fields, message):
    model, _ = classifier("bert")
    with pytest.raises(InputError, match=message):
        get_peft_model(model, BottleneckConfig(**fields))


def test_what_the_config_leaves_open_is_the_papers():
    published = {}
    for name in VARIANTS:
        chosen = BottleneckConfig(variant=name)
        published[name] = [chosen.bottleneck_size, chosen.reduction_factor, chosen.activation, chosen.scaling]
    assert published == {
        "houlsby": [64, None, "gelu", 1.0],
        "pfeiffer": [None, 16.0, "relu", 1.0],
        "parallel": [None, 2.0, "relu", 4.0],
    }
    own = BottleneckConfig(variant="parallel", reduction_factor=8, activation="tanh", scaling=1.0)
    assert (own.bottleneck_size, own.size(32), own.activation, own.scaling) == (None, 4, "tanh", 1.0)
    assert BottleneckConfig(variant="pfeiffer").size(8) == 1

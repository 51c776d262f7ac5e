import pytest
from transformers import AutoConfig, AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import calls_of_group, layer_stack, layer_stack_name, num_layers
from tests.families import IMAGES, SPEECH, TEXT, classifier

NAMES = {
    "albert": "encoder.albert_layer_groups",
    "bert": "encoder.layer",
    "convnext": "encoder.stages",
    "data2vec-audio": "encoder.layers",
    "distilbert": "transformer.layer",
    "hubert": "encoder.layers",
    "modernbert": "layers",
    "resnet": "encoder.stages",
    "swin": "encoder.layers",
    "vit": "layers",
    "wavlm": "encoder.layers",
}


@pytest.mark.parametrize("family", sorted({*IMAGES, *SPEECH, *TEXT}))
def test_the_layers_run_in_the_order_of_the_list(family):
    model, inputs = classifier(family)
    ran = []
    for layer in layer_stack(model.base_model):
        layer.register_forward_pre_hook(lambda module, args: ran.append(module))
    model(**inputs)
    stack = list(layer_stack(model.base_model))
    assert ran == (stack * 2 if family == "albert" else stack)
    assert len(ran) == num_layers(model.base_model.config) == 2


@pytest.mark.parametrize("family", sorted(NAMES))
def test_its_name(family):
    model, _ = classifier(family)
    assert layer_stack_name(model.base_model) == NAMES[family]


def test_an_encoder_that_keeps_its_layers_elsewhere_is_named():
    encoder = classifier("bert")[0].base_model
    encoder.config.num_hidden_layers = 7
    with pytest.raises(InputError, match="layers of a bert encoder were not found"):
        layer_stack(encoder)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("xlm", {"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2}),  # its layers lie in several lists
        ("mobilenet_v2", {"depth_multiplier": 0.35}),
    ],
)
def test_encoders_without_one_list_of_layers(family, fields):
    encoder = AutoModel.from_config(AutoConfig.for_model(family, **fields))
    with pytest.raises(InputError, match=f"layers of a {family} encoder were not found"):
        layer_stack(encoder)


def test_a_config_that_does_not_say_how_many_layers():
    with pytest.raises(InputError, match="layers of a mobilenet_v2 encoder were not found"):
        num_layers(AutoConfig.for_model("mobilenet_v2"))


def test_the_calls_of_alberts_groups():
    config = AutoConfig.for_model("albert", num_hidden_layers=7, num_hidden_groups=3)
    calls = [calls_of_group(config, group) for group in range(3)]
    assert calls == [3, 2, 2]

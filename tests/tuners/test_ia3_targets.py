import pytest
import torch
from peft import IA3Config, get_peft_model
from transformers import AutoConfig, AutoModel, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.tuners.ia3_targets import PROJECTIONS, ia3_targets
from tests.families import BERT, IMAGES, SPEECH, TEXT, VIT, classifier

WITHOUT_PROJECTIONS = {"convnext", "convnextv2", "resnet", "wavlm"}
"""Families without attention, and one that never calls its projections."""


@pytest.mark.parametrize("family", sorted({**IMAGES, **SPEECH, **TEXT}))
def test_keys_values_and_second_layers_are_scaled_and_learn(family):
    model, inputs = classifier(family)
    adapted = get_peft_model(model, IA3Config(**ia3_targets(model)))
    scaled = [name.partition(".ia3_l.")[0] for name, p in adapted.named_parameters() if p.requires_grad]
    last_names = {name.rpartition(".")[2] for name in scaled}
    assert any(last_names >= set(names) for names in PROJECTIONS) != (family in WITHOUT_PROJECTIONS)
    assert all(name.startswith(f"base_model.model.{model.base_model_prefix}.") for name in scaled)
    assert not any("attention.output" in name or "pooler" in name for name in scaled)
    second_layers = [name for name in scaled if adapted.get_submodule(name).is_feedforward]
    assert bool(second_layers) != (family == "resnet")
    adapted(**inputs).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapted.parameters() if p.requires_grad)


def test_keys_values_and_inner_activations_are_scaled():
    """The equations of section 3.3, on one layer of a ViT: K l_k, V l_v, and W_2 (l_ff * gelu(W_1 x))."""
    model = AutoModel.from_config(ViTConfig(**VIT | {"num_hidden_layers": 1})).eval()
    adapted = get_peft_model(model, IA3Config(**ia3_targets(model), init_ia3_weights=False))
    layer = model.layers[0]
    x = torch.randn(2, 5, 16)
    for name in ("k_proj", "v_proj"):
        projection = getattr(layer.attention, name)
        scale = projection.ia3_l["default"].flatten()
        torch.testing.assert_close(projection(x), projection.base_layer(x) * scale)
    fc2 = layer.mlp.fc2
    inner = torch.randn(2, 5, 32)
    torch.testing.assert_close(fc2(inner), fc2.base_layer(inner * fc2.ia3_l["default"].flatten()))
    assert sum(p.requires_grad for p in adapted.parameters()) == 3


def test_layers_that_are_named_and_families_without_a_default():
    model = AutoModel.from_config(ViTConfig(**VIT))
    adapted = get_peft_model(model, IA3Config(**ia3_targets(model, ["q_proj", "fc2"])))
    names = {name.split(".ia3_l")[0].rpartition(".")[2] for name, p in adapted.named_parameters() if p.requires_grad}
    assert names == {"q_proj", "fc2"}
    assert model.layers[0].mlp.fc2.is_feedforward
    assert not model.layers[0].attention.q_proj.is_feedforward
    with pytest.raises(InputError, match="'fc3'; did you mean 'fc"):
        ia3_targets(model, ["fc3"])
    convolutions = AutoModel.from_config(AutoConfig.for_model("mobilenet_v2", depth_multiplier=0.35))
    with pytest.raises(InputError, match=r"mobilenet_v2 encoder; name layers to scale in model\.tuner_config"):
        ia3_targets(convolutions)


@pytest.mark.parametrize(
    ("family", "fields", "expected"),
    [
        ("roberta-prelayernorm", BERT, {"key", "value", "dense"}),
        (
            "eurobert",
            BERT | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
            {"k_proj", "v_proj", "down_proj"},
        ),
        ("siglip_vision_model", VIT, {"k_proj", "v_proj", "fc2"}),
    ],
)
def test_of_other_families_they_are_found(family, fields, expected):
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields))
    adapted = get_peft_model(model, IA3Config(**ia3_targets(model)))
    names = {name.split(".ia3_l")[0].rpartition(".")[2] for name, p in adapted.named_parameters() if p.requires_grad}
    assert names == expected

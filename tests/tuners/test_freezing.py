import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from hf_ssl.errors import InputError
from hf_ssl.tuners.freezing import head_parameters, train_biases, train_head, train_layer_norms
from tests.families import BERT, classifier


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_bitfit_trains_every_bias_and_the_head_and_returns_the_plain_model():
    """The biases of the equations of section 3, with those of the layer norms."""
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **BERT))
    kind = type(model)
    assert train_biases(model) is model
    assert type(model) is kind
    layer = [
        f"{part}.bias"
        for part in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
    ]
    biases = {f"bert.encoder.layer.{number}.{name}" for number in (0, 1) for name in layer}
    head = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert trained(model) == biases | head | {"bert.embeddings.LayerNorm.bias"}


def test_layer_norms_have_gain_and_bias():
    model = train_layer_norms(classifier("vit")[0])
    norms = {f"vit.layers.{layer}.layernorm_{when}" for layer in (0, 1) for when in ("before", "after")}
    names = {f"{norm}.{part}" for norm in norms | {"vit.layernorm"} for part in ("weight", "bias")}
    assert trained(model) == names | {"classifier.weight", "classifier.bias"}


def test_an_encoders_own_class_of_layer_norm_is_one():
    """DeBERTa's is no `nn.LayerNorm`."""
    model = train_layer_norms(classifier("deberta")[0])
    norms = {name for name in trained(model) if name.startswith("deberta.")}
    assert norms == {name for name, _ in model.named_parameters() if "LayerNorm" in name}
    assert len(norms) == 2 * (1 + 2 * 2)


def test_the_head_alone():
    model = train_head(classifier("wav2vec2")[0])
    assert trained(model) == head_parameters(model).keys()
    assert {name.partition(".")[0] for name in trained(model)} == {"projector", "classifier"}


def test_of_a_bare_encoder_only_the_pooler_is_a_head():
    model = AutoModel.from_config(AutoConfig.for_model("bert", **BERT))
    assert head_parameters(model).keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert "encoder.layer.0.output.dense.bias" in trained(train_biases(model))


@pytest.mark.parametrize("freezer", [train_head, train_biases, train_layer_norms])
def test_nothing_else_moves(freezer):
    model, inputs = classifier("roberta")
    before = {name: p.detach().clone() for name, p in freezer(model).named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**inputs).logits.square().sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= trained(model)
    assert "classifier.out_proj.weight" in moved


def test_encoders_that_have_nothing_to_train():
    with pytest.raises(InputError, match="The modernbert encoder has no biases to train; choose another tuner"):
        train_biases(classifier("modernbert")[0])
    with pytest.raises(InputError, match="The resnet encoder has no layer norms to train; choose another tuner"):
        train_layer_norms(classifier("resnet")[0])

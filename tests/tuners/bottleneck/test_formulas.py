"""The adapters and their fusion against loops written from the papers."""

import math

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from hf_ssl.tuners.bottleneck import VARIANTS, AdapterFusion, Bottleneck, BottleneckConfig, BottleneckLayer
from tests.families import classifier

SIGMA = {"gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))), "relu": lambda x: max(x, 0.0)}


def shaken(module: nn.Module) -> nn.Module:
    """With weights that are not near the identity, biases included."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or "adapters." in name:
            nn.init.normal_(parameter, std=0.5)
    return module.eval()


def dot(x: Tensor, y: Tensor) -> float:
    return sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))


def naive_bottleneck(bottleneck: Bottleneck, h: Tensor, activation: str, scaling: float) -> Tensor:
    """One position h of d values, unit by unit."""
    down, up = bottleneck.down, bottleneck.up
    added = up.bias.tolist()
    for r in range(down.out_features):
        unit = SIGMA[activation](
            sum(w * x for w, x in zip(down.weight[r].tolist(), h.tolist(), strict=True)) + down.bias[r].item()
        )
        for d in range(len(added)):
            added[d] += up.weight[d, r].item() * unit
    return torch.tensor([scaling * x for x in added])


@pytest.mark.parametrize(
    ("variant", "activation", "scaling"), [("houlsby", "gelu", 1), ("pfeiffer", "relu", 1), ("parallel", "relu", 4)]
)
def test_a_bottleneck_is_its_formula(variant, activation, scaling):
    bottleneck = shaken(Bottleneck(6, BottleneckConfig(variant=variant, bottleneck_size=3)))
    h = torch.randn(2, 4, 6)
    expected = torch.stack([naive_bottleneck(bottleneck, x, activation, scaling) for x in h.flatten(0, 1)])
    torch.testing.assert_close(bottleneck(h), expected.view_as(h))


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_sizes_and_beginnings(variant):
    bottleneck = Bottleneck(768, BottleneckConfig(variant=variant))
    r = {"houlsby": 64, "pfeiffer": 48, "parallel": 384}[variant]
    assert sum(p.numel() for p in bottleneck.parameters()) == 2 * 768 * r + r + 768
    assert not bottleneck.down.bias.any()
    assert not bottleneck.up.bias.any()
    deviations = {"houlsby": (8.8e-4, 8.8e-4), "pfeiffer": (0.02, 0.02), "parallel": (1 / math.sqrt(3 * 768), 0.0)}
    for projection, deviation in zip((bottleneck.down, bottleneck.up), deviations[variant], strict=True):
        assert projection.weight.std().item() == pytest.approx(deviation, rel=0.02)
    if variant == "houlsby":  # truncated at two deviations, which leaves .88 of one
        assert max(bottleneck.down.weight.abs().max(), bottleneck.up.weight.abs().max()) <= 2e-3


def test_dropout_is_on_the_units_and_in_training_only():
    bottleneck = shaken(Bottleneck(4, BottleneckConfig(bottleneck_size=50, dropout=0.5)))
    h = torch.randn(1, 4)
    assert torch.equal(bottleneck(h), bottleneck(h))
    bottleneck.train()
    with torch.no_grad():
        samples = torch.cat([bottleneck(h) for _ in range(4000)])
    assert not torch.equal(samples[0], samples[1])
    torch.testing.assert_close(samples.mean(0), bottleneck.eval()(h)[0], atol=0.25, rtol=0)


class ByHand:
    """A layer of BERT or ViT with its adapters, from what its attention gives on, computed from the named weights."""

    def __init__(self, adapted: nn.Module, layer: str):
        self.weights = adapted.state_dict()
        self.layer = f"base_model.model.{layer}"

    def named(self, name: str) -> tuple[Tensor, Tensor]:
        name = f"{self.layer}.{name}"
        if f"{name}.weight" not in self.weights:
            name = f"{name}.base_layer"
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, *self.named(name))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self.named(name), eps=1e-12)

    def adapter(self, name: str, x: Tensor, sigma, scaling: float = 1.0) -> Tensor:
        name = f"{name}.bottleneck_adapter.default"
        return scaling * self.linear(f"{name}.up", sigma(self.linear(f"{name}.down", x)))


def after_bert_layer(hand: ByHand, variant: str, x: Tensor, attended: Tensor) -> Tensor:
    y = hand.linear("attention.output.dense", attended)
    if variant == "houlsby":
        y = y + hand.adapter("attention.output.dense", y, F.gelu)
    x = hand.norm("attention.output.LayerNorm", x + y)
    h = hand.linear("output.dense", F.gelu(hand.linear("intermediate.dense", x)))
    if variant == "houlsby":
        h = h + hand.adapter("output.dense", h, F.gelu)
    if variant == "parallel":
        h = h + hand.adapter("output.dense", x, F.relu, scaling=4)
    if variant == "pfeiffer":
        h = h + hand.adapter("output.LayerNorm", hand.norm("output.LayerNorm", h + x), F.relu)
    return hand.norm("output.LayerNorm", h + x)


def after_vit_layer(hand: ByHand, variant: str, x: Tensor, attended: Tensor) -> Tensor:
    y = hand.linear("attention.o_proj", attended)
    if variant == "houlsby":
        y = y + hand.adapter("attention.o_proj", y, F.gelu)
    x = x + y
    z = hand.norm("layernorm_after", x)
    h = hand.linear("mlp.fc2", F.gelu(hand.linear("mlp.fc1", z)))
    if variant == "parallel":
        return x + h + hand.adapter("mlp.fc2", z, F.relu, scaling=4)
    return x + h + hand.adapter("mlp.fc2", h, F.gelu if variant == "houlsby" else F.relu)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("family", "layer", "projection", "after_layer"),
    [
        ("bert", "bert.encoder.layer.0", "attention.output.dense", after_bert_layer),
        ("vit", "vit.layers.0", "attention.o_proj", after_vit_layer),
    ],
)
def test_where_the_adapters_stand(variant, family, layer, projection, after_layer):
    model, inputs = classifier(family)
    adapted = shaken(get_peft_model(model, BottleneckConfig(variant=variant, bottleneck_size=3)))
    seen = {}
    module = model.get_submodule(layer)
    module.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    model.get_submodule(f"{layer}.{projection}").register_forward_pre_hook(
        lambda m, args: seen.update(attended=args[0])
    )
    with torch.no_grad():
        adapted(**inputs)
        expected = after_layer(ByHand(adapted, layer), variant, seen["x"], seen["attended"])
    torch.testing.assert_close(seen["out"], expected)


def naive_fusion(fusion: AdapterFusion, h: Tensor) -> Tensor:
    """One position."""
    query = fusion.query(h)
    outputs = [adapter(h) for adapter in fusion.adapters]
    exponentials = [math.exp(dot(query, fusion.key(z))) for z in outputs]
    fused = torch.zeros_like(h)
    for exponential, z in zip(exponentials, outputs, strict=True):
        fused += exponential / sum(exponentials) * (fusion.value.weight @ z)
    return fused


@torch.no_grad()
def test_a_fusion_is_its_formula():
    fusion = shaken(
        AdapterFusion(4, BottleneckConfig(variant="pfeiffer", bottleneck_size=2, fused_adapters=list("abc")))
    )
    h = torch.randn(2, 3, 4) / 2
    expected = torch.stack([naive_fusion(fusion, x) for x in h.flatten(0, 1)])
    torch.testing.assert_close(fusion(h), expected.view_as(h))
    squares = sum((w - (i == j)) ** 2 for i, row in enumerate(fusion.value.weight.tolist()) for j, w in enumerate(row))
    assert fusion.distance_from_identity().item() == pytest.approx(squares)


@torch.no_grad()
def test_a_fusion_begins_near_the_mean_of_its_adapters():
    fusion = AdapterFusion(
        8, BottleneckConfig(variant="pfeiffer", bottleneck_size=4, fused_adapters=["a", "b"])
    ).eval()
    assert torch.equal(fusion.value.weight.diagonal(), torch.ones(8))
    assert fusion.value.weight[0, 1] == pytest.approx(1e-6)
    assert fusion.value.bias is None
    assert fusion.query.weight.std().item() == pytest.approx(0.02, rel=0.4)
    h = torch.randn(5, 8)
    mean = sum(adapter(h) for adapter in fusion.adapters) / 2
    torch.testing.assert_close(fusion(h), mean, atol=1e-4, rtol=0)


@torch.no_grad()
def test_adapters_active_together_read_the_same():
    model, _ = classifier("bert")
    adapted = get_peft_model(model, BottleneckConfig(bottleneck_size=3))
    adapted.add_adapter("other", BottleneckConfig(variant="parallel", bottleneck_size=2))
    adapted.base_model.set_adapter(["default", "other"])
    shaken(adapted)
    layer = model.bert.encoder.layer[0].output.dense
    assert isinstance(layer, BottleneckLayer)
    h, x = torch.randn(2, 5, 32), torch.randn(2, 5, 16)
    model.bert.encoder.layer[0].intermediate.dense(x)
    y = layer.base_layer(h)
    added = layer.bottleneck_adapter["default"](y) + layer.bottleneck_adapter["other"](x)
    torch.testing.assert_close(layer(h), y + added)

"""Every family of encoders: where the adapters begin, what trains, and that all of it gets a gradient."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck import VARIANTS, BottleneckConfig, BottleneckLayer
from tests.families import BERT, IMAGES, SPEECH, TEXT, TRANSFORMER, VIT, WAVEFORM, classifier

FAMILIES = sorted(IMAGES | SPEECH | TEXT)
WITHOUT_ATTENTION = {"convnext", "convnextv2", "resnet"}
REACHED = [
    (family, variant)
    for family in FAMILIES
    for variant in VARIANTS
    if family != "resnet" and not (variant == "houlsby" and family in WITHOUT_ATTENTION)
]
# relative distance from the encoder's logits at the start; Pfeiffer's W_up is not 0, and the LayerNorm magnifies
NEAR = {"houlsby": 1e-5, "pfeiffer": 2e-2, "parallel": 0.0}
ROUNDING = 1e-6


def bottlenecks(model) -> list[BottleneckLayer]:
    return [module for module in model.modules() if isinstance(module, BottleneckLayer)]


@pytest.mark.parametrize(("family", "variant"), REACHED)
def test_every_family(family, variant):
    model, inputs = classifier(family, padded=True)
    with torch.no_grad():
        before = model(**inputs).logits
    head = sorted({n.rpartition(".")[0] for n, _ in model.named_parameters() if not in_encoder(model, n)})
    config = BottleneckConfig(variant=variant, bottleneck_size=3, modules_to_save=head)
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        after = adapted(**inputs).logits
    assert (after - before).abs().max() <= (NEAR[variant] + ROUNDING) * before.abs().max()

    trainable = {n.removeprefix("base_model.model."): p for n, p in adapted.named_parameters() if p.requires_grad}
    added = {n: p for n, p in trainable.items() if "modules_to_save" not in n}
    assert all(in_encoder(model, n) and ".bottleneck_adapter.default." in n for n in added)
    assert not any(in_encoder(model, n) for n in trainable if n not in added)
    layers = bottlenecks(model)
    widths = [layer.width for layer in layers]
    assert sum(p.numel() for p in added.values()) == sum(2 * d * 3 + 3 + d for d in widths)
    blocks = 1 if family == "albert" else 2
    assert len(layers) == blocks * (2 if variant == "houlsby" else 1)

    shake(added)
    output = model.base_model(**inputs).last_hidden_state
    (output * torch.randn_like(output)).sum().backward()
    without = [n for n, p in added.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


def in_encoder(model: PreTrainedModel, name: str) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")


def shake(parameters: dict[str, torch.nn.Parameter]) -> None:
    """A dead ReLU has no gradient, nor has what stands before a W_up of zeros."""
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.fill_(3.0) if name.endswith("down.bias") else parameter.normal_(std=0.1)


@pytest.mark.parametrize(
    ("variant", "published"), [("houlsby", 2_379_264), ("pfeiffer", 894_528), ("parallel", 7_091_712)]
)
def test_the_parameters_that_bert_base_gets(variant, published):
    """12 layers with 2 · 768 r + r + 768 for each of one or two bottlenecks."""
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model("bert"))
        adapted = get_peft_model(model, BottleneckConfig(variant=variant), low_cpu_mem_usage=True)
    assert adapted.get_nb_trainable_parameters()[0] == published


@pytest.mark.parametrize("family", ["convnext", "convnextv2"])
def test_a_family_without_attention_refuses_houlsby(family):
    model, _ = classifier(family)
    with pytest.raises(InputError, match=f"{family} encoder have no attention.*pfeiffer"):
        get_peft_model(model, BottleneckConfig(variant="houlsby"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_family_without_feed_forward_blocks_refuses_all(variant):
    model, _ = classifier("resnet")
    with pytest.raises(InputError, match="resnet encoder have no feed-forward block.*LoRA"):
        get_peft_model(model, BottleneckConfig(variant=variant))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "resnet"])
def test_layer_norms_train_and_are_saved_when_asked(family):
    model, inputs = classifier(family, padded=True)
    with torch.no_grad():
        before = model(**inputs).logits
    adapted = get_peft_model(model, BottleneckConfig(variant="parallel", train_layer_norms=True)).eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(**inputs).logits, before, rtol=0, atol=1e-6)
    norms = {n: p for n, p in adapted.named_parameters() if p.requires_grad and "bottleneck_" not in n}
    kinds = {type(adapted.get_submodule(n.rpartition(".")[0])).__name__ for n in norms}
    assert norms
    assert all(kind.endswith("LayerNorm") for kind in kinds)
    assert all(in_encoder(model, n.removeprefix("base_model.model.")) for n in norms)
    assert all(".modules_to_save.default." in n for n in norms)
    adapted(**inputs).logits.square().sum().backward()
    assert all(p.grad is not None for p in norms.values())


def test_a_stable_layer_norm_stands_before_its_block():
    """wav2vec 2.0's large models: the norm of this name is no place for Pfeiffer's adapter there."""
    config = AutoConfig.for_model("wav2vec2", **WAVEFORM, do_stable_layer_norm=True, feat_extract_norm="layer")
    model = AutoModel.from_config(config)
    adapted = get_peft_model(model, BottleneckConfig(variant="pfeiffer", bottleneck_size=3))
    names = [n for n, m in adapted.named_modules() if isinstance(m, BottleneckLayer)]
    assert len(names) == 2
    assert all(n.endswith("feed_forward.output_dense") for n in names)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("clip_vision_model", TRANSFORMER | {"image_size": 16, "patch_size": 8}),
        ("dinov3_vit", VIT | {"use_gated_mlp": True}),
        ("dinov2", VIT | {"use_swiglu_ffn": True}),
    ],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_families_outside_the_table_are_reached_by_their_names(family, fields, variant):
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields)).eval()
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
    adapted = get_peft_model(model, BottleneckConfig(variant=variant, bottleneck_size=3))
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).last_hidden_state, before, rtol=0.02, atol=0.02)
    added = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    shake(added)
    output = model(**inputs).last_hidden_state
    (output * torch.randn_like(output)).sum().backward()
    assert len(bottlenecks(model)) == (4 if variant == "houlsby" else 2)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in added.values())


class StudentAndTeacher(PreTrainedModel):
    config_class = ViTConfig
    base_model_prefix = "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config, add_pooling_layer=False)
        self.teacher = AutoModel.from_config(config, add_pooling_layer=False)
        self.post_init()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_teacher_is_left_alone(variant):
    adapted = get_peft_model(StudentAndTeacher(ViTConfig(**VIT)), BottleneckConfig(variant=variant))
    names = [n for n, m in adapted.named_modules() if isinstance(m, BottleneckLayer)]
    assert names
    assert all(n.startswith("base_model.model.encoder.layers.") for n in names)


def test_a_pooler_is_left_to_the_head():
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **BERT))
    adapted = get_peft_model(model, BottleneckConfig(train_layer_norms=True))
    assert not any("pooler" in n for n, p in adapted.named_parameters() if p.requires_grad)


def test_an_encoder_without_attention_or_known_names():
    model = AutoModel.from_config(AutoConfig.for_model("fnet", vocab_size=40, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(InputError, match="fnet encoder have no attention"):
        get_peft_model(model, BottleneckConfig())


@pytest.mark.parametrize("family", ["bert", "deberta", "distilbert", "modernbert", "mpnet"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(family, variant):
    model, inputs = classifier(family, padded=True)
    adapted = get_peft_model(model, BottleneckConfig(variant=variant, bottleneck_size=3)).eval()
    shake({n: p for n, p in adapted.named_parameters() if p.requires_grad})
    length = inputs["attention_mask"][1].sum()
    with torch.no_grad():
        together = adapted(**inputs).logits[1:]
        alone = adapted(**{name: value[1:, :length] for name, value in inputs.items()}).logits
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

"""AdapterFusion over trained adapters, through PEFT's interface."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck import AdapterFusion, BottleneckConfig, BottleneckLayer
from tests.families import classifier

VARIANTS = ("houlsby", "pfeiffer", "parallel")


def config(**fields) -> BottleneckConfig:
    return BottleneckConfig(
        **{"variant": "pfeiffer", "bottleneck_size": 3, "modules_to_save": ["classifier"]} | fields
    )


def shake(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))


def fuse(adapted: PeftModel, names: list[str], adapter_name: str = "fusion", **fields) -> None:
    adapted.fuse_adapters(names, adapter_name, **fields)
    adapted.set_adapter(adapter_name)


def two_adapters(family: str = "bert", **fields):
    """Two adapters as if trained, neither of them active alone."""
    model, inputs = classifier(family)
    adapted = get_peft_model(model, config(**fields), adapter_name="nli")
    shake(adapted, 1)
    adapted.add_adapter("paraphrase", config(**fields))
    adapted.set_adapter("paraphrase")
    shake(adapted, 2)
    return adapted, inputs


def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


def fusions(model: nn.Module) -> list[AdapterFusion]:
    return [module for module in model.modules() if isinstance(module, AdapterFusion)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["bert", "vit", "wavlm", "albert"])
def test_only_the_attention_over_the_adapters_trains(family, variant):
    adapted, inputs = two_adapters(family, variant=variant)
    fuse(adapted, ["nli", "paraphrase"])
    assert adapted.active_adapters == ["fusion"]
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    added = {n for n in trainable if "modules_to_save" not in n}
    assert {n.split(".bottleneck_adapter.fusion.")[1] for n in added} == {
        "query.weight",
        "query.bias",
        "key.weight",
        "key.bias",
        "value.weight",
    }
    assert {n for n in trainable if n not in added} == {
        f"base_model.model.classifier.modules_to_save.fusion.{n}" for n in ("weight", "bias")
    }
    for fusion in fusions(adapted):
        nn.init.normal_(fusion.query.weight)
        nn.init.normal_(fusion.key.weight)
    output = adapted.get_base_model().base_model(**inputs).last_hidden_state
    (output * torch.randn_like(output)).sum().backward()
    # b_K adds the same to every score of a position, which the softmax takes out again
    without = [n for n in added if trainable[n].grad is None or not trainable[n].grad.abs().max() > 0]
    assert all(n.endswith("key.bias") for n in without)
    assert all(trainable[n].grad is not None for n in added)


def test_the_fused_adapters_stay_frozen_whatever_is_set():
    adapted, _ = two_adapters()
    fuse(adapted, ["nli", "paraphrase"])
    with adapted.disable_adapter():
        pass
    adapted.set_adapter("nli")
    assert not any(p.requires_grad for fusion in fusions(adapted) for p in fusion.parameters())
    adapted.set_adapter("fusion")
    adapted.set_requires_grad("fusion")
    for fusion in fusions(adapted):
        assert fusion.query.weight.requires_grad
        assert not any(p.requires_grad for p in fusion.adapters.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fusion_of_twins_is_the_twin(variant):
    """Whatever the weights of its attention, while V is the identity."""
    model, inputs = classifier("bert")
    adapted = get_peft_model(model, config(variant=variant), adapter_name="one")
    shake(adapted, 1)
    adapted.add_adapter("twin", config(variant=variant))
    for module in model.modules():
        if isinstance(module, BottleneckLayer):
            module.bottleneck_adapter["twin"].load_state_dict(module.bottleneck_adapter["one"].state_dict())
    alone = hidden_states(adapted, inputs)
    fuse(adapted, ["one", "twin"])
    torch.testing.assert_close(hidden_states(adapted, inputs), alone, atol=1e-4, rtol=1e-4)


def hidden_states(adapted: PeftModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return adapted.eval().get_base_model().base_model(**inputs).last_hidden_state


def test_a_fusion_is_complete_without_its_adapters(tmp_path):
    adapted, inputs = two_adapters()
    fuse(adapted, ["nli", "paraphrase"], "both")
    shake(adapted, 3)
    fused = logits(adapted, inputs)
    adapted.delete_adapter("nli")
    assert torch.equal(logits(adapted, inputs), fused)
    adapted.save_pretrained(tmp_path, selected_adapters=["both"])
    base, _ = classifier("bert")
    loaded = PeftModel.from_pretrained(base, tmp_path / "both", adapter_name="again")
    assert torch.equal(logits(loaded, inputs), fused)
    native, _ = classifier("bert")
    native.load_adapter(str(tmp_path / "both"))
    assert torch.equal(logits(native, inputs), fused)


def test_the_adapters_beside_a_fusion_are_unchanged():
    adapted, inputs = two_adapters()
    adapted.set_adapter("nli")
    alone = logits(adapted, inputs)
    trainable = [n for n, p in adapted.named_parameters() if p.requires_grad]
    adapted.fuse_adapters(["nli", "paraphrase"])
    assert adapted.active_adapters == ["nli"]
    assert [n for n, p in adapted.named_parameters() if p.requires_grad] == trainable
    adapted.set_adapter("fusion")
    shake(adapted, 3)
    adapted.set_adapter("nli")
    assert torch.equal(logits(adapted, inputs), alone)


def test_a_fusion_in_half_precision_keeps_its_adapters_exactly():
    model, inputs = classifier("bert")
    adapted = get_peft_model(model.bfloat16(), config(), adapter_name="nli")
    shake(adapted, 1)
    adapted.add_adapter("paraphrase", config())
    fuse(adapted, ["nli", "paraphrase"])
    for layer in adapted.modules():
        if isinstance(layer, BottleneckLayer):
            copied, original = layer.bottleneck_adapter["fusion"].adapters[0], layer.bottleneck_adapter["nli"]
            assert torch.equal(copied.down.weight, original.down.weight)
            assert copied.down.weight.dtype == torch.float32
    assert logits(adapted, inputs).dtype == torch.bfloat16


def test_the_regularizer():
    adapted, _ = two_adapters()
    assert adapted.fusion_regularization().item() == 0
    fuse(adapted, ["nli", "paraphrase"])
    assert adapted.fusion_regularization().item() == pytest.approx(0, abs=1e-9)
    shake(adapted, 3)
    values = [fusion.value.weight for fusion in fusions(adapted)]
    expected = 0.01 * sum(((value - torch.eye(16)) ** 2).sum().item() for value in values)
    assert len(values) == 2
    assert adapted.fusion_regularization().item() == pytest.approx(expected)
    adapted.fusion_regularization(weight=1.0).backward()
    torch.testing.assert_close(values[0].grad, 2 * (values[0] - torch.eye(16)).detach())
    adapted.set_adapter("nli")
    assert adapted.fusion_regularization().item() == 0


def test_a_fusion_learns_which_adapter_to_take():
    adapted, inputs = two_adapters()
    adapted.set_adapter("nli")
    target = hidden_states(adapted, inputs)
    fuse(adapted, ["nli", "paraphrase"], dropout=0.0)
    frozen = copy.deepcopy([p for fusion in fusions(adapted) for p in fusion.adapters.parameters()])
    parameters = [p for fusion in fusions(adapted) for p in fusion.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses = []
    for _ in range(60):
        output = adapted.get_base_model().base_model(**inputs).last_hidden_state
        loss = (output - target).square().mean() + adapted.fusion_regularization()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
    after = [p for fusion in fusions(adapted) for p in fusion.adapters.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(frozen, after, strict=True))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nli"], "AdapterFusion of \\['nli'\\] has nothing to choose from"),
        (["nli", "nli"], "has nothing to choose from"),
        (["nli", "paraphrases"], "no adapter 'paraphrases'; did you mean 'paraphrase'"),
        (["nli", "wide"], "'wide' has bottleneck_size 5 and 'nli' has 3; fuse adapters of equal"),
        (["nli", "fused"], "'fused' is a fusion itself"),
    ],
)
def test_adapters_that_cannot_be_fused(names, message):
    adapted, _ = two_adapters()
    adapted.add_adapter("wide", config(bottleneck_size=5))
    adapted.fuse_adapters(["nli", "paraphrase"], "fused")
    with pytest.raises(InputError, match=message):
        adapted.fuse_adapters(names)


def test_a_name_in_use():
    adapted, _ = two_adapters()
    with pytest.raises(InputError, match="adapter 'nli' already"):
        adapted.fuse_adapters(["nli", "paraphrase"], "nli")


def test_layer_norms_cannot_be_fused():
    adapted, _ = two_adapters(variant="houlsby", train_layer_norms=True)
    with pytest.raises(InputError, match="'nli' has LayerNorms of its own.*train_layer_norms=False"):
        adapted.fuse_adapters(["nli", "paraphrase"])

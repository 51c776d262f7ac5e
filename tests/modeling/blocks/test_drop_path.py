"""Stochastic depth: which branches are left out, for which rows, and how often."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.drop_path import DropPath, add_drop_path
from hf_ssl.modeling.blocks.layer_stack import layer_stack
from tests.families import classifier

VIT_LIKE = ("vit", "deit", "ijepa", "vit_msn", "audio-spectrogram-transformer")


def encoder_with_inputs(family: str, rows: int = 2) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    model, inputs = classifier(family)
    return model.base_model, {name: torch.randn(rows, *value.shape[1:]) for name, value in inputs.items()}


def test_a_row_is_left_out_or_rescaled() -> None:
    drop_path, module = DropPath(0.25), nn.Identity().train()
    torch.manual_seed(0)
    branch = torch.randn(4000, 3, 2)
    dropped = drop_path(module, (), branch)
    kept = dropped.flatten(1).any(dim=1)
    torch.testing.assert_close(dropped[kept], branch[kept] / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert drop_path(module.eval(), (), branch) is branch
    assert DropPath(0.0)(module.train(), (), branch) is branch


@pytest.mark.parametrize("family", VIT_LIKE)
def test_either_branch_of_a_layer_is_left_out_by_itself(family: str) -> None:
    """Naively: h ← h + a · attention(norm(h)), then h ← h + b · mlp(norm(h)), a and b of a row 0 or 1 / (1 - p)."""
    encoder, inputs = encoder_with_inputs(family, rows=6)
    rate = 0.5
    add_drop_path(encoder, rate)
    second = layer_stack(encoder)[1]
    hidden = []
    second.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    second.register_forward_hook(lambda module, args, output: hidden.append(output))
    encoder.train()
    torch.manual_seed(3)
    encoder(**inputs)
    torch.manual_seed(3)
    draws = torch.rand(6), torch.rand(6)  # the first layer's rate is 0: it draws nothing; there is no dropout
    read, gave = hidden
    expected = []
    for row in range(6):
        h = read[row : row + 1]
        for draw, branch in zip(draws, ("attention", "mlp"), strict=True):
            factor = 0.0 if draw[row] < rate else 1 / (1 - rate)
            norm = second.layernorm_before if branch == "attention" else second.layernorm_after
            out = second.get_submodule(branch)(norm(h))
            h = h + factor * (out[0] if isinstance(out, tuple) else out)
        expected.append(h)
    torch.testing.assert_close(gave, torch.cat(expected))
    factors = [draw < rate for draw in draws]
    assert (factors[0] != factors[1]).any()


def test_the_rate_rises_linearly_with_depth() -> None:
    config = classifier("vit")[0].config
    config.num_hidden_layers = 5
    encoder = AutoModel.from_config(config)
    add_drop_path(encoder, 0.2)
    rates = [next(iter(layer.dropout._forward_hooks.values())).rate for layer in layer_stack(encoder)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_nothing_is_left_out_in_evaluation_and_nothing_is_saved_of_it(tmp_path) -> None:
    encoder, inputs = encoder_with_inputs("vit")
    before = encoder(**inputs).last_hidden_state
    add_drop_path(encoder, 0.9)
    assert torch.equal(encoder(**inputs).last_hidden_state, before)
    encoder.save_pretrained(tmp_path)
    restored = AutoModel.from_pretrained(tmp_path).train()
    torch.testing.assert_close(restored(**inputs).last_hidden_state, before)


def test_checkpointed_activations_are_computed_again_with_the_same_rows() -> None:
    encoder, inputs = encoder_with_inputs("vit", rows=8)
    add_drop_path(encoder, 0.5)
    gradients = []
    for checkpoints in (False, True):
        if checkpoints:
            encoder.gradient_checkpointing_enable()
        encoder.train().zero_grad()
        torch.manual_seed(1)
        encoder(**inputs).last_hidden_state.square().sum().backward()
        gradients.append(encoder.embeddings.patch_embeddings.projection.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bert", r"no stochastic depth for a bert encoder \(model.drop_path=0.1\); leave"),
        ("resnet", "no stochastic depth for a resnet encoder"),
        ("wav2vec2", "use model.encoder_config.layerdrop"),
    ],
)
def test_other_layers_are_refused(family: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_drop_path(classifier(family)[0].base_model, 0.1)

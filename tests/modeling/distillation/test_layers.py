"""Encoders with fewer layers compute what running the kept layers by hand gives, whatever the family."""

import copy

import pytest
import torch
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack, layer_stack_name
from hf_ssl.modeling.distillation.layers import chosen_layers, keep_layers
from tests.families import classifier
from tests.modeling.distillation.tiny import FAMILIES, family_encoder

STAGES = [family for family in FAMILIES if "depths" in FAMILIES[family]]
STACKS = [family for family in FAMILIES if family not in STAGES]
FIRST_IS_SPECIAL = ("wavlm", "modernbert")
"""In these layer 0 has what others lack, or lacks what others have."""


def by_hand(encoder: nn.Module, layers: list[int]) -> nn.Module:
    """The same encoder with the other layers taken out of its list."""
    taken_out = copy.deepcopy(encoder)
    parent, _, name = layer_stack_name(encoder).rpartition(".")
    stack = layer_stack(taken_out)
    if len(stack) > 1:  # ALBERT's is one layer, run as often as the config says
        setattr(taken_out.get_submodule(parent), name, nn.ModuleList([stack[layer] for layer in layers]))
    taken_out.config.num_hidden_layers = len(layers)
    return taken_out


@pytest.mark.parametrize("family", STACKS)
def test_states_are_those_of_the_kept_layers(family: str) -> None:
    encoder, (_, inputs) = family_encoder(family), classifier(family, padded=True)
    for layers in ([0, 2], [0], [0, 1, 2, 3], [1, 3]):
        if layers[0] > 0 and family in FIRST_IS_SPECIAL:
            continue
        pruned = keep_layers(encoder, layers)
        assert type(pruned) is type(encoder)
        assert pruned.config.num_hidden_layers == len(layers)
        with torch.no_grad():
            ours, theirs = (
                model(**inputs, output_hidden_states=True).hidden_states
                for model in (pruned, by_hand(encoder, layers))
            )
        assert len(ours) == len(layers) + 1
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_only_the_first_layer_has_is_kept() -> None:
    """WavLM's layers share the relative positions of its first."""
    encoder, (_, inputs) = family_encoder("wavlm"), classifier("wavlm")
    hand = by_hand(encoder, [1, 3])
    layer_stack(hand)[0].attention.rel_attn_embed = layer_stack(encoder)[0].attention.rel_attn_embed
    layer_stack(hand)[0].attention.has_relative_position_bias = True
    with torch.no_grad():
        ours, theirs = (model(**inputs).last_hidden_state for model in (keep_layers(encoder, [1, 3]), hand))
    assert torch.equal(ours, theirs)


def test_a_first_layer_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InputError, match="cannot stand alone .*; keep layer 0 as the first"):
        keep_layers(family_encoder("modernbert"), [1, 3])


@pytest.mark.parametrize("family", STAGES)
def test_stages_cannot_be_left_out(family: str) -> None:
    with pytest.raises(InputError, match=f"A '{family}' encoder has stages that differ in size"):
        keep_layers(family_encoder(family), [0])


@pytest.mark.parametrize("layers", [[], [0, 4], [2, 0], [1, 1], [-1]])
def test_layers_that_do_not_exist_are_refused(layers: list[int]) -> None:
    with pytest.raises(InputError, match="give some of 0 … 3, each once, in ascending order"):
        keep_layers(family_encoder("bert"), layers)


def test_the_encoder_stays_as_it_was() -> None:
    encoder = family_encoder("vit")
    before = copy.deepcopy(encoder.state_dict())
    pruned = keep_layers(encoder, [0, 3])
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert encoder.config.num_hidden_layers == 4
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("choice", "kept", "of", "expected"),
    [
        ("every_other", 6, 12, [0, 2, 4, 6, 8, 10]),
        ("every_other", 2, 3, [0, 1]),
        ("every_other", 4, 4, [0, 1, 2, 3]),
        ("first", 2, 12, [0, 1]),
        ([1, 5], 2, 12, [1, 5]),
    ],
)
def test_choices(choice, kept: int, of: int, expected: list[int]) -> None:
    assert chosen_layers(choice, kept, of) == expected

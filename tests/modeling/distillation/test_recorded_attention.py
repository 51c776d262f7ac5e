"""What is recorded makes the attention distributions that the encoder itself computes."""

import copy

import pytest
import torch
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.distillation.recorded_attention import record_attention, recorded
from tests.families import classifier
from tests.modeling.distillation.tiny import FAMILIES, family_encoder

BY_THEMSELVES = ("data2vec-vision", "deberta", "deberta-v2", "mpnet", "wavlm")
"""Families that compute their attention without transformers' interface."""
STAGES = tuple(family for family in FAMILIES if "depths" in FAMILIES[family])
REACHED = [family for family in FAMILIES if family not in (*BY_THEMSELVES, *STAGES)]


@pytest.mark.parametrize("family", REACHED)
def test_the_scores_make_the_encoders_own_distributions(family: str) -> None:
    encoder, (_, inputs) = family_encoder(family, num_layers=2), classifier(family, padded=True)
    eager = AutoModel.from_config(copy.deepcopy(encoder.config), attn_implementation="eager").eval()
    eager.load_state_dict(encoder.state_dict())
    record_attention(encoder)
    with torch.no_grad():
        expected = eager(**inputs, output_attentions=True, output_hidden_states=True)
        with recorded() as attention:
            outputs = encoder(**inputs, output_hidden_states=True)
    assert len(attention) == 2
    for layer, theirs in zip(attention, expected.attentions, strict=True):
        assert torch.allclose(layer.scores().softmax(dim=-1), theirs, atol=1e-5)
        assert layer.value.shape == layer.key.shape == layer.query.shape
    assert torch.allclose(outputs.last_hidden_state, expected.last_hidden_state, atol=1e-5)
    encoder(**inputs)  # outside of the context nothing is kept
    assert len(attention) == 2


@pytest.mark.parametrize("family", [*BY_THEMSELVES, *STAGES])
def test_families_out_of_reach_are_refused(family: str) -> None:
    with pytest.raises(InputError, match=f"The attention of a '{family}' encoder cannot be read"):
        record_attention(family_encoder(family, num_layers=2))


def test_relative_positions_are_part_of_the_scores() -> None:
    fields = {"use_relative_position_bias": True}
    config = family_encoder("beit", num_layers=1).config
    config = type(config).from_dict({**config.to_dict(), **fields})
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if "bias_table" in name).normal_()
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
        expected = model(**inputs, output_attentions=True).attentions[0]
        record_attention(model)
        with recorded() as attention:
            model(**inputs)
    assert torch.allclose(attention[0].scores().softmax(dim=-1), expected, atol=1e-5)

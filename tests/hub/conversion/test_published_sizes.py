"""At the sizes of the published checkpoints: every parameter has its place, and nothing is left over."""

import hashlib

import pytest
import torch
from torch import Tensor

from hf_ssl.hub.conversion.encoder_config import to_encoder_config
from hf_ssl.hub.conversion.from_fairseq import match_names
from hf_ssl.hub.conversion.objectives import objective_architecture
from hf_ssl.hub.conversion.settings import read_settings
from hf_ssl.hub.conversion.transformers_models import transformers_architecture
from tests.hub.conversion.fairseq_models import (
    PUBLISHED,
    cfg,
    encoder_shapes,
    fine_tuned_cfg,
    fine_tuned_shapes,
    shapes_of,
)

# Tensors, numbers, and a digest of names and shapes of fairseq's own models with these settings; source: fairseq,
# commit 3d262bb, built on torch 2.13.0, data2vec with its teacher.
REFERENCE = {
    "wav2vec2": (218, 95_044_608, "5b406b268c2cf0b4"),
    "wav2vec2 large": (429, 317_390_592, "6c31008c8d292792"),
    "hubert": (214, 94_697_600, "77ae05b056560977"),
    "hubert large": (418, 316_609_408, "e6967af383a35845"),
    "data2vec": (436, 182_316_800, "740e929f12f66219"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_of_these_tests_are_fairseqs(name: str) -> None:
    weights = on_meta(shapes_of(PUBLISHED[name], num_clusters=500))
    text = "\n".join(f"{name} {tuple(weight.shape)}" for name, weight in sorted(weights.items()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (len(weights), sum(weight.numel() for weight in weights.values()), digest) == REFERENCE[name]


def on_meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("to", [transformers_architecture, objective_architecture])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_parameter_of_the_class_has_one(name: str, to: type) -> None:
    model = PUBLISHED[name]
    settings = read_settings(cfg(model), flat=False)
    architecture = to(settings)
    weights = architecture.prepare(on_meta(shapes_of(model, num_clusters=500)), None)
    config = architecture.to_config(settings, to_encoder_config(settings), weights)
    converted, aside = match_names(weights, architecture.names(config), architecture.set_aside)
    # Compares names and shapes with the class itself.
    architecture.check_shapes(config, converted | architecture.state(settings, config))
    assert len(converted) + len(aside) == len(weights)
    expected = encoder_shapes(model) if architecture.prefix == "" else shapes_of(model, num_clusters=500)
    missing = {"label_embs_concat"} if name.startswith("hubert") and architecture.prefix else set()
    assert {name for name, here in architecture.names(config).items() if here in converted} >= (
        expected.keys() - missing
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_fine_tuned(name: str) -> None:
    settings = read_settings(fine_tuned_cfg(PUBLISHED[name]), flat=False)
    architecture = transformers_architecture(settings)
    weights = on_meta(fine_tuned_shapes(PUBLISHED[name]))
    config = architecture.to_config(settings, to_encoder_config(settings), weights)
    converted, aside = match_names(weights, architecture.names(config), architecture.set_aside)
    architecture.check_shapes(config, converted)
    assert len(aside) == (1 if name.startswith("hubert") else 0)

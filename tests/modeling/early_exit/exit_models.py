"""Tiny models with exits, of every family of encoders."""

import torch
from torch import Tensor
from transformers import AutoConfig

from hf_ssl.modeling.early_exit.base import EarlyExitModel
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import (
    EarlyExitForAudioClassification,
    EarlyExitForImageClassification,
    EarlyExitForSequenceClassification,
)
from hf_ssl.modeling.early_exit.policies import exit_scores
from tests.families import IMAGES, SPEECH, SPEECH_INPUTS, TEXT

ROWS = 6
FAMILIES = sorted({*IMAGES, *SPEECH, *TEXT})
DEEPER = {
    "swin": {"depths": [1, 1, 1], "num_heads": [2, 2, 2]},
    "swinv2": {"depths": [1, 1, 1], "num_heads": [2, 2, 2]},
    "convnext": {"hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "num_stages": 3},
    "convnextv2": {"hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "num_stages": 3},
    "resnet": {"hidden_sizes": [8, 8, 16], "depths": [1, 1, 1]},
    "distilbert": {"n_layers": 4},
}
"""Three stages, or four layers, of which some of `tests.families` have two."""


def exit_model(family: str, model_class: type[EarlyExitModel] | None = None, **config) -> EarlyExitModel:
    """A tiny model in evaluation mode; `encoder` among the fields are further fields of the encoder's config."""
    torch.manual_seed(0)
    fields = {**IMAGES, **SPEECH, **TEXT}[family] | DEEPER.get(family, {"num_hidden_layers": 4})
    encoder_config = AutoConfig.for_model(family, **(fields | config.pop("encoder", {})))
    if model_class is None:
        model_class = (
            EarlyExitForImageClassification
            if family in IMAGES
            else EarlyExitForAudioClassification
            if family in SPEECH
            else EarlyExitForSequenceClassification
        )
    model = model_class(EarlyExitConfig(encoder_config=encoder_config, **({"num_labels": 3} | config))).eval()
    with torch.no_grad():  # so that the certainties of rows differ more than by rounding
        for head in model.exits:
            head.classifier.weight.normal_()
    return model


def inputs_for(family: str, rows: int = ROWS) -> dict[str, Tensor]:
    """A batch for [`exit_model`], padded to different lengths where the family has padding."""
    generator = torch.Generator().manual_seed(1)
    if family in IMAGES:
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    if family in SPEECH:
        name, (_, *shape) = SPEECH_INPUTS.get(family, ("input_values", (2, 1600)))
        inputs = {name: torch.randn(rows, *shape, generator=generator)}
        if family == "audio-spectrogram-transformer":
            return inputs
    else:
        inputs = {"input_ids": torch.randint(5, 40, (rows, 7), generator=generator)}
    (values,) = inputs.values()
    lengths = torch.linspace(values.shape[1] // 2, values.shape[1], rows).long()
    mask = (torch.arange(values.shape[1]) < lengths[:, None]).long()
    return inputs | {"attention_mask": mask}


def row(inputs: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: values[index : index + 1] for name, values in inputs.items()}


@torch.no_grad()
def scores_of(model: EarlyExitModel, inputs: dict[str, Tensor], policy: str) -> Tensor:
    """The scores (E, B) of all exits at full depth."""
    model.config.exit_policy = "never"
    full = model(**inputs)
    mask = model.mask_of(model.base_model(**inputs).last_hidden_state, inputs) if model.reads_positions else None
    return exit_scores(policy, full.exit_logits, full.exit_errors, mask, model.reduction)


def between(scores: Tensor, share: float) -> list[float]:
    """Thresholds of the exits before the last, half way between two scores, above about that share of the rows."""
    ordered = scores[:-1].sort(dim=1).values
    place = min(max(round(share * scores.shape[1]), 1), scores.shape[1] - 1)
    return ordered[:, place - 1 : place + 1].mean(dim=1).tolist()

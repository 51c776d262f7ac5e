"""wav2vec 2.0's pretraining: fairseq's ↔ transformers' `Wav2Vec2ForPreTraining` and ours, which share most names."""

import ast
from typing import Any

import torch
from transformers import PreTrainedConfig, Wav2Vec2ForPreTraining

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Architecture, Weights
from hf_ssl.hub.conversion.encoder_names import Names, affine
from hf_ssl.hub.conversion.settings import PUBLISHED_UPDATES, Settings
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingModel
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig

FIELDS = {
    "latent_vars": "num_codevectors_per_group",
    "latent_groups": "num_codevector_groups",
    "latent_dim": "codevector_dim",
    "final_dim": "proj_codevector_dim",
    "logit_temp": "contrastive_logits_temperature",
    "num_negatives": "num_negatives",
    "dropout_features": "feat_quantizer_dropout",
    "mask_prob": "mask_time_prob",
    "mask_length": "mask_time_length",
}
CHANNEL_MASKS = {"mask_channel_prob": "mask_feature_prob", "mask_channel_length": "mask_feature_length"}

OURS = {
    "target_glu": False,
    "quantizer_depth": 1,
    "negatives_from_everywhere": False,
    "cross_sample_negatives": 0,
    "codebook_negatives": 0,
}
"""What ours does, where fairseq has other choices too."""


def has_heads(settings: Settings) -> bool:
    """Whether `Wav2Vec2ForPreTraining` has a place for quantiser and projections."""
    model = settings.model
    return model["quantize_targets"] and model["quantizer_depth"] == 1 and not model["target_glu"]


def _fields(settings: Settings) -> dict[str, Any]:
    fields = {ours: settings.model[theirs] for theirs, ours in FIELDS.items()}
    return fields | {
        "proj_codevector_dim": settings.final_dim,
        "codevector_dim": settings.model["latent_dim"] or settings.final_dim,
        "contrastive_logits_temperature": float(settings.model["logit_temp"]),
    }


def _loss_weights(settings: Settings) -> tuple[float, float]:
    """Of diversity and feature penalty; fairseq takes one weight for both."""
    weights = settings.criterion.get("loss_weights") or [0.0]
    return float(weights[0]), float(weights[-1])


def _published_config(settings: Settings, encoder: PreTrainedConfig, weights: Weights) -> PreTrainedConfig:
    """With the masks of the pretraining, which transformers' SpecAugment reads too."""
    encoder.update(_fields(settings) | {ours: settings.model[theirs] for theirs, ours in CHANNEL_MASKS.items()})
    encoder.diversity_loss_weight = _loss_weights(settings)[0]
    return encoder


def _config(settings: Settings, encoder: PreTrainedConfig, weights: Weights) -> PreTrainedConfig:
    for name, value in OURS.items():
        if settings.model.get(name, value) != value:
            raise InputError(
                f"This wav2vec 2.0 was trained with {name} = {settings.model[name]!r}, where ours has {value!r}; "
                "convert it with --to transformers."
            )
    temperature = settings.model["latent_temp"]
    start, end, factor = ast.literal_eval(temperature) if isinstance(temperature, str) else temperature
    diversity, penalty = _loss_weights(settings)
    return Wav2Vec2PreTrainingConfig(
        encoder_config=encoder,
        **_fields(settings),
        mask_time_min_masks=2,
        quantize_targets=settings.model["quantize_targets"],
        diversity_loss_weight=diversity,
        feature_penalty_weight=penalty,
        feature_grad_mult=settings.model["feature_grad_mult"],
        gumbel_temperature_start=start,
        gumbel_temperature_end=end,
        gumbel_temperature_decay=factor**settings.max_update,  # fairseq's is of an update, ours of the training
    )


def _published_sections(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    model = {theirs: getattr(config, ours) for theirs, ours in (FIELDS | CHANNEL_MASKS).items()}
    criterion = {"infonce": True, "loss_weights": [config.diversity_loss_weight, 0.0]}
    return {"model": model | {"quantize_targets": True}, "task": {}, "criterion": criterion}


def _sections(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    if config.quantize_inputs:
        raise InputError(
            "With quantize_inputs, fairseq's wav2vec 2.0 has a layer of its own behind the quantiser, which ours has "
            "not; it has no counterpart."
        )
    temperature = [
        config.gumbel_temperature_start,
        config.gumbel_temperature_end,
        config.gumbel_temperature_decay ** (1 / PUBLISHED_UPDATES),
    ]
    model = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    model |= {
        "quantize_targets": config.quantize_targets,
        "feature_grad_mult": config.feature_grad_mult,
        "latent_temp": temperature,
    }
    weights = [config.diversity_loss_weight, config.feature_penalty_weight]
    return {"model": model, "task": {}, "criterion": {"infonce": True, "loss_weights": weights}}


def _heads(config: PreTrainedConfig) -> Names:
    return (
        {"quantizer.vars": "quantizer.codevectors"}
        | affine("quantizer.weight_proj", "quantizer.weight_proj")
        | _projections(config)
    )


def _projections(config: PreTrainedConfig) -> Names:
    return affine("project_q", "project_q") | affine("final_proj", "project_hid")


def _state(settings: Settings, config: PreTrainedConfig) -> Weights:
    """The Gumbel softmax is as cool as after the updates that the checkpoint has had."""
    return {"gumbel_temperature": torch.tensor(config.gumbel_temperature(settings.num_updates / settings.max_update))}


PUBLISHED_WAV2VEC2 = Architecture(
    Wav2Vec2ForPreTraining, "wav2vec2", "wav2vec2.", _published_config, _published_sections, _heads
)
WAV2VEC2 = Architecture(
    Wav2Vec2PreTrainingModel,
    "wav2vec2",
    "encoder.",
    _config,
    _sections,
    lambda config: _heads(config) if config.quantize_targets else _projections(config),
    state=_state,
)

"""HuBERT's pretraining: fairseq's ↔ ours."""

from typing import Any

from transformers import PreTrainedConfig

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Architecture, Weights
from hf_ssl.hub.conversion.encoder_names import Names, affine
from hf_ssl.hub.conversion.label_embeddings import (
    CLUSTERS,
    SPECIALS,
    join_label_embeddings,
    split_label_embeddings,
)
from hf_ssl.hub.conversion.settings import Settings
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig

FIELDS = {
    "final_dim": "final_dim",
    "logit_temp": "temperature",
    "mask_prob": "mask_time_prob",
    "mask_length": "mask_time_length",
    "feature_grad_mult": "feature_grad_mult",
}


def _config(settings: Settings, encoder: PreTrainedConfig, weights: Weights) -> PreTrainedConfig:
    model, criterion = settings.model, settings.criterion
    labels = settings.task.get("labels") or []
    if model["target_glu"] or len(labels) > 1:
        raise InputError(
            f"This HuBERT was trained with target_glu = {model['target_glu']} on {len(labels)} sets of labels; ours "
            "has no gate on its targets and one set; convert the encoder with --to transformers."
        )
    masked, unmasked = criterion.get("pred_masked_weight", 1.0), criterion.get("pred_nomask_weight", 0.0)
    return HubertPreTrainingConfig(
        encoder_config=encoder,
        **{ours: model[theirs] for theirs, ours in FIELDS.items()} | {"final_dim": settings.final_dim},
        mask_time_min_masks=2,
        num_clusters=len(weights[CLUSTERS]),
        label_rate=model.get("label_rate") or settings.task.get("label_rate"),
        sampling_rate=settings.sampling_rate,
        alpha=masked / (masked + unmasked),
        feature_penalty_weight=(criterion.get("loss_weights") or [0.0])[0],
    )


def _sections(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    model = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    return {
        "model": model | {"label_rate": config.label_rate, "untie_final_proj": True},
        "task": {"label_rate": config.label_rate, "sample_rate": config.sampling_rate},
        "criterion": {
            "pred_masked_weight": config.alpha,
            "pred_nomask_weight": 1 - config.alpha,
            "loss_weights": [config.feature_penalty_weight],
        },
    }


def _heads(config: PreTrainedConfig) -> Names:
    return affine("final_proj", "projection_head") | {CLUSTERS: "codebook"}


HUBERT = Architecture(
    HubertForPreTraining,
    "hubert",
    "encoder.",
    _config,
    _sections,
    _heads,
    set_aside=(SPECIALS,),
    prepare=split_label_embeddings,
    restore=join_label_embeddings,
)

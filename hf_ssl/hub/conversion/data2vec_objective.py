"""data2vec's pretraining: fairseq's ↔ ours."""

from typing import Any

from transformers import PreTrainedConfig

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Architecture, Weights, encoder_config_of
from hf_ssl.hub.conversion.encoder_names import Names, affine, prefixed, transformer_names
from hf_ssl.hub.conversion.settings import PUBLISHED_UPDATES, Settings
from hf_ssl.modeling.speech.data2vec_audio import Data2VecAudioForPreTraining, Data2VecAudioPreTrainingConfig

FIELDS = {
    "average_top_k_layers": "average_top_k_layers",
    "ema_decay": "ema_decay",
    "ema_end_decay": "ema_end_decay",
    "mask_prob": "mask_time_prob",
    "mask_length": "mask_time_length",
}
DEFAULTS = {"average_top_k_layers": 8, "ema_decay": 0.999, "ema_end_decay": 0.9999}

PUBLISHED = {
    "instance_norm_target_layer": True,
    "layer_norm_target_layer": False,
    "batch_norm_target_layer": False,
    "group_norm_target_layer": False,
    "instance_norm_targets": False,
    "layer_norm_targets": False,
    "loss_beta": 0,
    "loss_scale": None,
    "ema_transformer_only": True,
    "ema_layers_only": True,
}
"""The published choices, which are ours, where fairseq has others too."""

UNSAID = PUBLISHED | {"instance_norm_target_layer": False}
"""What fairseq does where a checkpoint does not say."""


def _config(settings: Settings, encoder: PreTrainedConfig, weights: Weights) -> PreTrainedConfig:
    model = DEFAULTS | UNSAID | settings.model
    for name, value in PUBLISHED.items():
        if model[name] != value:
            raise InputError(
                f"This data2vec was trained with {name} = {model[name]!r}, where ours has {value!r}; convert the "
                "encoder with --to transformers."
            )
    return Data2VecAudioPreTrainingConfig(
        encoder_config=encoder,
        **{ours: model[theirs] for theirs, ours in FIELDS.items()},
        mask_time_min_masks=1,
        # fairseq counts the updates over which the decay rises.
        ema_rise_share=min(1.0, model.get("ema_anneal_end_step", settings.max_update) / settings.max_update),
    )


def _sections(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    model = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()} | PUBLISHED
    model |= {
        "ema_anneal_end_step": round(config.ema_rise_share * PUBLISHED_UPDATES),
        "max_update": PUBLISHED_UPDATES,
    }
    return {"model": model, "task": {}, "criterion": {}}


def _heads(config: PreTrainedConfig) -> Names:
    teacher = prefixed(transformer_names(encoder_config_of(config)), "_ema.", "teacher.")
    return affine("final_proj", "projection_head") | teacher


DATA2VEC = Architecture(
    Data2VecAudioForPreTraining, "data2vec_audio", "encoder.", _config, _sections, _heads, has_teacher=True
)

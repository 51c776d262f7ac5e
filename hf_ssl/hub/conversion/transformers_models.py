"""The classes of transformers that fairseq's models become."""

from typing import Any

from transformers import (
    Data2VecAudioForCTC,
    Data2VecAudioModel,
    HubertForCTC,
    HubertModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
)

from hf_ssl.hub.conversion.architectures import FINE_TUNED_ENCODER, Architecture, Weights
from hf_ssl.hub.conversion.encoder_config import FIELDS
from hf_ssl.hub.conversion.encoder_names import Names, affine
from hf_ssl.hub.conversion.settings import Settings
from hf_ssl.hub.conversion.wav2vec2_objective import PUBLISHED_WAV2VEC2, has_heads

MASKS = {
    "mask_prob": "mask_time_prob",
    "mask_length": "mask_time_length",
    "mask_channel_prob": "mask_feature_prob",
    "mask_channel_length": "mask_feature_length",
}
TRAINING_FIELDS = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "dropout_input",
    "layerdrop": "encoder_layerdrop",
}
"""Settings of CTC's model that replace settings of the pretraining."""


def _as_encoder(settings: Settings, encoder: PreTrainedConfig, weights: Weights) -> PreTrainedConfig:
    return encoder


def _no_sections(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    return {"model": {}, "task": {}, "criterion": {}}


def _ctc_config(settings: Settings, encoder: PreTrainedConfig, weights: Weights) -> PreTrainedConfig:
    """The blank is fairseq's symbol 0, called `<s>`; transformers calls the blank its padding token."""
    assert settings.fine_tuning is not None
    tuning = settings.fine_tuning
    encoder.update({FIELDS[theirs]: tuning[key] for key, theirs in TRAINING_FIELDS.items()})
    masks = {ours: tuning[theirs] for theirs, ours in MASKS.items()}
    is_masked = tuning["apply_mask"] and (masks["mask_time_prob"] > 0 or masks["mask_feature_prob"] > 0)
    if is_masked:  # else as transformers has it: with both at 0 there would be no mask embedding
        encoder.update(masks)
    head = weights.get("w2v_encoder.proj.weight", ())  # where there is none, the names say so
    encoder.update(
        {
            "apply_spec_augment": bool(is_masked),
            "final_dropout": tuning["final_dropout"],
            "ctc_zero_infinity": bool(settings.criterion.get("zero_infinity", False)),
            "vocab_size": len(head),
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
    )
    return encoder


def _ctc_sections(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    model = {key: getattr(config, FIELDS[theirs]) for key, theirs in TRAINING_FIELDS.items()}
    model |= {theirs: getattr(config, ours) for theirs, ours in MASKS.items()}
    model |= {"apply_mask": config.apply_spec_augment, "final_dropout": config.final_dropout}
    return {"model": model, "task": {}, "criterion": {"zero_infinity": config.ctc_zero_infinity}}


def _ctc_head(config: PreTrainedConfig) -> Names:
    return affine("w2v_encoder.proj", "lm_head")


def _encoder(model_class: type[PreTrainedModel], family: str, set_aside: tuple[str, ...]) -> Architecture:
    return Architecture(model_class, family, "", _as_encoder, _no_sections, set_aside=set_aside)


def _ctc(model_class: type[PreTrainedModel], family: str, *set_aside: str) -> Architecture:
    prefix = f"{model_class.base_model_prefix}."
    return Architecture(
        model_class, family, prefix, _ctc_config, _ctc_sections, _ctc_head, set_aside=set_aside, fine_tuned=True
    )


PRETRAINED = {
    "wav2vec2": PUBLISHED_WAV2VEC2,
    "hubert": _encoder(HubertModel, "hubert", ("final_proj.", "label_embs_concat", "target_glu.")),
    "data2vec_audio": _encoder(Data2VecAudioModel, "data2vec_audio", ("final_proj.", "_ema.")),
}
BARE_WAV2VEC2 = _encoder(Wav2Vec2Model, "wav2vec2", ("quantizer.", "project_q.", "final_proj.", "target_glu."))
FINE_TUNED = {
    "wav2vec2": _ctc(Wav2Vec2ForCTC, "wav2vec2"),
    # The one module of the pretraining that fairseq leaves in.
    "hubert": _ctc(HubertForCTC, "hubert", f"{FINE_TUNED_ENCODER}label_embs_concat"),
    "data2vec_audio": _ctc(Data2VecAudioForCTC, "data2vec_audio"),
}
TRANSFORMERS = (*PRETRAINED.values(), BARE_WAV2VEC2, *FINE_TUNED.values())


def transformers_architecture(settings: Settings) -> Architecture:
    """The class that a checkpoint becomes: with its heads where transformers has them, else the bare encoder."""
    if settings.fine_tuning is not None:
        return FINE_TUNED[settings.family]
    if settings.family == "wav2vec2" and not has_heads(settings):
        return BARE_WAV2VEC2
    return PRETRAINED[settings.family]

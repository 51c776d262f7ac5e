"""What a fairseq checkpoint says of itself, in one form for all ages of fairseq."""

import re
from dataclasses import dataclass
from typing import Any

from hf_ssl.errors import InputError, unknown_name

FAMILIES = ("wav2vec2", "hubert", "data2vec_audio")
FINE_TUNED = ("wav2vec_ctc", "hubert_ctc")

PUBLISHED_UPDATES = 400_000
"""Of the published BASE models of all three families, where a checkpoint does not say."""

DEFAULTS: dict[str, Any] = {
    "extractor_mode": "default",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "final_dim": 0,
    "layer_norm_first": False,
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "conv_bias": False,
    "logit_temp": 0.1,
    "target_glu": False,
    "feature_grad_mult": 1.0,
    "quantize_targets": False,
    "quantize_input": False,
    "quantizer_depth": 1,
    "latent_vars": 320,
    "latent_groups": 2,
    "latent_dim": 0,
    "latent_temp": [2, 0.5, 0.999995],
    "mask_length": 10,
    "mask_prob": 0.65,
    "mask_channel_length": 10,
    "mask_channel_prob": 0.0,
    "num_negatives": 100,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "conv_pos_batch_norm": False,
    "pos_conv_depth": 1,
    "crop_seq_to_multiple": 1,
}
"""fairseq's own, for settings that are younger than a checkpoint."""

FINE_TUNING_DEFAULTS: dict[str, Any] = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_mask": False,
    "mask_length": 10,
    "mask_prob": 0.5,
    "mask_channel_length": 10,
    "mask_channel_prob": 0.0,
}


@dataclass(frozen=True)
class Settings:
    """Settings of a pretrained or fine-tuned model.

    Args:
        family (`str`): of [`FAMILIES`], the objective that the encoder was pretrained with.
        model (`dict`): of its pretraining, complete for what is read here.
        task (`dict`): `normalize`, `sample_rate`, `label_rate` ..., of the last training.
        criterion (`dict`): weights of the loss's terms.
        fine_tuning (`dict`, *optional*): of CTC's model, where the checkpoint is fine-tuned.
        max_update (`int`): updates of the whole of the last training.
        num_updates (`int`): those that the checkpoint has had.
    """

    family: str
    model: dict[str, Any]
    task: dict[str, Any]
    criterion: dict[str, Any]
    fine_tuning: dict[str, Any] | None
    max_update: int
    num_updates: int

    @property
    def normalize(self) -> bool:
        """Whether the waveforms have zero mean and unit variance."""
        return bool(self.task.get("normalize", False))

    @property
    def sampling_rate(self) -> int:
        """Of the waveforms, Hz."""
        return int(self.task.get("sample_rate", 16_000))

    @property
    def final_dim(self) -> int:
        """Dimensions of the space of the predictions; 0 in fairseq means as many as the encoder has."""
        return self.model["final_dim"] or self.model["encoder_embed_dim"]


def read_settings(settings: dict[str, Any], *, flat: bool, num_updates: int = 0) -> Settings:
    """The settings of a checkpoint.

    Args:
        settings (`dict`): plain values, of `cfg` or of `args`.
        flat (`bool`): whether they are `args`.
        num_updates (`int`): that the checkpoint has had.

    Raises:
        InputError: for a model that is not converted, or a fine-tuned one that does not say what its encoder is.
    """
    model, task, criterion = _sections(settings, flat=flat)
    name = str(model.get("_name") or model.get("arch"))
    optimization = settings if flat else settings.get("optimization") or {}
    updates = {"max_update": int(optimization.get("max_update") or PUBLISHED_UPDATES), "num_updates": num_updates}
    if name not in FINE_TUNED:
        return Settings(_family(name), {**DEFAULTS, **model}, task, criterion, fine_tuning=None, **updates)
    encoder = model.get("w2v_args")
    if not isinstance(encoder, dict):
        raise InputError(
            f"The settings of this {name} checkpoint have no w2v_args, which say what its encoder is; load and save "
            "it with fairseq once, which fills them in."
        )
    encoder_model, _, _ = _sections(encoder, flat="model" not in encoder)
    return Settings(
        family=_family(str(encoder_model.get("_name") or encoder_model.get("arch"))),
        model={**DEFAULTS, **encoder_model},
        task=task,
        criterion=criterion,
        fine_tuning={**FINE_TUNING_DEFAULTS, **model},
        **updates,
    )


def _sections(settings: dict[str, Any], *, flat: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Model, task and criterion: three dicts of `cfg`, or three times the whole of `args`."""
    if flat:
        return settings, settings, settings
    model, task, criterion = (
        {key: _resolved(value, settings) for key, value in (settings.get(section) or {}).items()}
        for section in ("model", "task", "criterion")
    )
    return model, task, criterion


def _resolved(value: Any, settings: dict[str, Any]) -> Any:
    """A value, or where it is a reference such as `${task.normalize}`, the value that it refers to."""
    reference = re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value) if isinstance(value, str) else None
    return (settings.get(reference[1]) or {}).get(reference[2]) if reference else value


def _family(name: str) -> str:
    if name not in FAMILIES:
        raise unknown_name("conversion for fairseq's model", name, [*FAMILIES, *FINE_TUNED])
    return name

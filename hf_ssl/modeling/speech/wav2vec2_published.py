"""wav2vec 2.0 as transformers saves it: `Wav2Vec2ForPreTraining`, the class of the published checkpoints.

Its weights have the same names here, with `wav2vec2.` for `encoder.`.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, Wav2Vec2Config, Wav2Vec2ForPreTraining

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.pretrained import load_published
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig

THEIRS, OURS = "wav2vec2.", "encoder."

SIZES = ("num_codevector_groups", "num_codevectors_per_group", "codevector_dim", "proj_codevector_dim")
"""Fields of both configs on which the shapes of quantiser and heads depend."""

SHARED = (
    *SIZES,
    *("num_negatives", "contrastive_logits_temperature", "diversity_loss_weight", "feat_quantizer_dropout"),
    *("mask_time_prob", "mask_time_length", "mask_time_min_masks"),
)
"""Fields that mean the same in both configs."""


def has_heads(name_or_path: str | Path) -> bool:
    """Whether a checkpoint holds a quantiser and heads beside its encoder.

    Raises:
        InputError: when there is no checkpoint.
    """
    architectures = load_published(AutoConfig, name_or_path).architectures
    return architectures == [Wav2Vec2ForPreTraining.__name__]


def load_with_heads(name_or_path: str | Path, fields: dict[str, Any]) -> tuple[Wav2Vec2ForPreTraining, dict[str, Any]]:
    """A published checkpoint with its quantiser and heads.

    Args:
        name_or_path (`str` or `Path`): of which [`has_heads`] is true.
        fields (`dict[str, Any]`): of our config.

    Returns:
        the checkpoint, and the fields with its sizes.

    Raises:
        InputError: when the fields ask for other sizes.
    """
    published = load_published(Wav2Vec2ForPreTraining, name_or_path)
    sizes = {name: getattr(published.config, name) for name in SIZES}
    for name, size in sizes.items():
        if fields.get(name, size) != size:
            raise InputError(
                f"{name} is {fields[name]}, but the quantiser and heads in {name_or_path} have {size}; set "
                f"model.{name}={size} to continue with them."
            )
    return published, {**fields, **sizes}


def heads_of(published: Wav2Vec2ForPreTraining) -> dict[str, Tensor]:
    """The weights of a checkpoint that are not its encoder's: `quantizer.*`, `project_hid.*` and `project_q.*`."""
    return {name: weight for name, weight in published.state_dict().items() if not name.startswith(THEIRS)}


def as_published(config: Wav2Vec2PreTrainingConfig, weights: dict[str, Tensor]) -> Wav2Vec2ForPreTraining:
    """Our model in transformers' class.

    Args:
        config ([`Wav2Vec2PreTrainingConfig`]): its config.
        weights (`dict[str, Tensor]`): its weights.

    Returns:
        the same model, in evaluation mode.

    Raises:
        InputError: for an encoder, inputs or targets that this class does not have.
    """
    assert isinstance(config.encoder_config, PreTrainedConfig)
    encoder = config.encoder_config.model_type
    if encoder != "wav2vec2" or config.quantize_inputs or not config.quantize_targets:
        raise InputError(
            "transformers' Wav2Vec2ForPreTraining has a wav2vec2 encoder, continuous inputs and quantised targets, "
            f"but this model has '{encoder}', quantize_inputs={config.quantize_inputs} and "
            f"quantize_targets={config.quantize_targets}; export its encoder instead."
        )
    shared = {name: getattr(config, name) for name in SHARED}
    for name in ("contrastive_logits_temperature", "diversity_loss_weight"):
        shared[name] = float(shared[name])  # transformers takes no 1 for 1.0
    encoder_config = {**config.encoder_config.to_dict(), **shared, "apply_spec_augment": True}
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**encoder_config))
    model.load_state_dict(
        {
            THEIRS + name.removeprefix(OURS) if name.startswith(OURS) else name: weight
            for name, weight in weights.items()
            if name != "gumbel_temperature"
        }
    )
    return model.eval()

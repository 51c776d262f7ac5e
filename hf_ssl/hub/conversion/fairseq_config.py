"""Settings for fairseq, and what else it needs, for a checkpoint that never was one of its own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, PreTrainedConfig

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import FINE_TUNED_ENCODER, Architecture, Weights, encoder_config_of
from hf_ssl.hub.conversion.dictionary import Dictionary, dictionary_of, load_tokenizer
from hf_ssl.hub.conversion.encoder_config import from_encoder_config
from hf_ssl.hub.conversion.label_embeddings import CLUSTERS, LABEL_EMBEDDINGS, SPECIALS
from hf_ssl.hub.conversion.sidecar import Sidecar
from hf_ssl.hub.conversion.teacher import copied_teacher, has_teacher
from hf_ssl.modeling.blocks.codebook import NUM_SPECIAL_LABELS

CRITERIA = {"wav2vec2": "wav2vec", "hubert": "hubert", "data2vec_audio": "model"}
"""fairseq's criterion of each objective."""

UNSET = ("optimizer", "lr_scheduler")


def make_sidecar(
    architecture: Architecture, config: PreTrainedConfig, folder: Path, labels_folder: Path, weights: Weights
) -> Sidecar:
    """What fairseq needs besides the weights of a model.

    Args:
        architecture ([`Architecture`]): of the model.
        config (`PreTrainedConfig`): of the model.
        folder (`Path`): where the model and its preprocessor lie.
        labels_folder (`Path`): where the dictionaries of its labels will lie.
        weights (`dict[str, Tensor]`): by fairseq's names.

    Returns:
        [`Sidecar`]: its `weights` are those that fairseq needs and the model does not have, made as fairseq makes
            them: embeddings drawn from U(0, 1), data2vec's teacher a copy of the student.

    Raises:
        InputError: for a folder without a preprocessor or tokenizer, or a tokenizer of another kind.
    """
    settings = fairseq_config(architecture, config, folder, labels_folder)
    dictionaries: dict[str, Dictionary] = {}
    made: Weights = {}
    inside = FINE_TUNED_ENCODER if architecture.fine_tuned else ""
    hidden_size = encoder_config_of(config).hidden_size
    if inside + "mask_emb" not in weights:  # an encoder of transformers without SpecAugment
        made[inside + "mask_emb"] = _drawn(hidden_size)
    if CLUSTERS in weights:
        dictionaries["km"] = [(str(cluster), 1) for cluster in range(len(weights[CLUSTERS]))]
        made[SPECIALS] = _drawn(NUM_SPECIAL_LABELS, config.final_dim)
    if architecture.fine_tuned:
        dictionaries["ltr"] = dictionary_of(load_tokenizer(folder), config.vocab_size)
        if architecture.family == "hubert":  # fairseq leaves its codewords in: here those of no cluster at all
            dictionaries["km"] = []
            made[inside + LABEL_EMBEDDINGS] = _drawn(NUM_SPECIAL_LABELS, hidden_size)
    dtype = next(iter(weights.values())).dtype
    made = {name: weight.to(dtype) for name, weight in made.items()}
    if architecture.family == "data2vec_audio" and not architecture.fine_tuned and not has_teacher(weights):
        made |= copied_teacher(weights)
    return Sidecar(settings, flat=False, num_updates=0, dictionaries=dictionaries, weights=made)


def _drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def fairseq_config(
    architecture: Architecture, config: PreTrainedConfig, folder: Path, labels_folder: Path
) -> dict[str, Any]:
    """The `cfg` of a model; the arguments are those of [`make_sidecar`]."""
    sections = architecture.to_sections(config)
    waveforms = _waveforms(folder)
    pretraining = _sections(
        {"_name": architecture.family, **_encoder(config), **({} if architecture.fine_tuned else sections["model"])},
        _pretraining_task(architecture.family, labels_folder) | waveforms | sections["task"],
        {"_name": CRITERIA[architecture.family], **({} if architecture.fine_tuned else sections["criterion"])},
    )
    if not architecture.fine_tuned:
        return pretraining
    hubert = architecture.family == "hubert"
    model = {
        "_name": "hubert_ctc" if hubert else "wav2vec_ctc",
        **sections["model"],
        "normalize": waveforms["normalize"],
        "data": str(labels_folder),
        "w2v_path": "",
        "w2v_args": pretraining,
    }
    return _sections(
        model, _fine_tuning_task(hubert, labels_folder) | waveforms, {"_name": "ctc", **sections["criterion"]}
    )


def _sections(model: dict[str, Any], task: dict[str, Any], criterion: dict[str, Any]) -> dict[str, Any]:
    # Defaults of fairseq's model and task refer to these of other sections.
    return {
        "_name": None,
        "common": {"seed": 1, "tpu": False, "fp16": False},
        "distributed_training": {"ddp_backend": "legacy_ddp"},
        "optimization": {"max_update": model.get("max_update", 0)},
        **dict.fromkeys(UNSET),
        "model": model,
        "task": task,
        "criterion": criterion,
    }


def _encoder(config: PreTrainedConfig) -> dict[str, Any]:
    return from_encoder_config(encoder_config_of(config))


def _waveforms(folder: Path) -> dict[str, Any]:
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} has no preprocessor, which says whether the waveforms are normalised; save the model's "
            "Wav2Vec2FeatureExtractor there."
        ) from error
    return {"normalize": extractor.do_normalize, "sample_rate": extractor.sampling_rate}


def _pretraining_task(family: str, labels_folder: Path) -> dict[str, Any]:
    if family != "hubert":
        return {"_name": "audio_pretraining", "data": str(labels_folder)}
    return {
        "_name": "hubert_pretraining",
        "data": str(labels_folder),
        "label_dir": str(labels_folder),
        "labels": ["km"],
        "label_rate": 50,
    }


def _fine_tuning_task(hubert: bool, labels_folder: Path) -> dict[str, Any]:
    if not hubert:
        return {"_name": "audio_finetuning", "data": str(labels_folder), "labels": "ltr"}
    return {
        "_name": "hubert_pretraining",
        "data": str(labels_folder),
        "label_dir": str(labels_folder),
        "labels": ["ltr"],
        "fine_tuning": True,
        "single_target": True,
        "label_rate": -1.0,
    }

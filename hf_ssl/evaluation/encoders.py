"""Frozen encoders: one as it was saved, and one of the same architecture that has learned nothing."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_ssl.data.arguments import DataArguments, SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.modeling.blocks.pretrained import OPTIONAL, Processor, SSLConfig, build_encoder

MODALITIES = {"pixel_values": "vision", "input_values": "speech", "input_features": "speech", "input_ids": "text"}
"""The modality of an encoder by the name of its input."""

PROCESSORS = {"vision": AutoImageProcessor, "speech": AutoFeatureExtractor, "text": AutoTokenizer}
"""What prepares the input of an encoder of a modality."""


def modality_of(encoder: PreTrainedModel) -> str:
    """`"vision"`, `"speech"` or `"text"`.

    Raises:
        InputError: for an encoder of anything else.
    """
    if tuple(encoder.input_modalities) == ("image",):  # ImageGPT reads colours, under the name of a text's tokens
        return "vision"
    if encoder.main_input_name not in MODALITIES:
        given = f"{type(encoder).__name__} reads {encoder.main_input_name!r}"
        raise InputError(f"{given}; give an encoder that reads one of: {', '.join(MODALITIES)}.")
    return MODALITIES[encoder.main_input_name]


def load_encoder(name_or_path: str | Path) -> tuple[PreTrainedModel, Processor]:
    """A saved encoder in fp32, and the preprocessor that was saved beside it.

    Args:
        name_or_path (`str` or `Path`): a Hub name or a folder: `<out>/encoder` of a pretraining run, or any published
            encoder.

    Raises:
        InputError: when there is none, when it is a pretraining checkpoint or an encoder-decoder, or when it lacks
            weights or its preprocessor.
    """
    config = load_encoder_config(name_or_path)
    if config.is_encoder_decoder:
        raise InputError(f"{name_or_path} is an encoder-decoder ({config.model_type!r}); give an encoder alone.")
    encoder = _load_weights(name_or_path)
    return encoder, load_preprocessor(name_or_path, modality_of(encoder))


def load_encoder_config(name_or_path: str | Path) -> PreTrainedConfig:
    """The config of a saved encoder.

    Args:
        name_or_path (`str` or `Path`): a Hub name or a folder.

    Raises:
        InputError: when there is none, or it is a run's folder or pretraining checkpoint.
    """
    if (Path(name_or_path) / "encoder" / "config.json").is_file():
        raise InputError(f"{name_or_path} is the folder of a run; give its encoder, {Path(name_or_path) / 'encoder'}.")
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise _unloadable(name_or_path, error) from error
    if isinstance(config, SSLConfig):
        raise InputError(
            f"{name_or_path} is the pretraining checkpoint of {config.model_type!r}; give the encoder that the run "
            "wrote beside it (<out>/encoder), or write it with `hf-ssl export`."
        )
    return config


def load_preprocessor(name_or_path: str | Path, modality: str) -> Processor:
    """What prepares an encoder's input, saved beside it.

    Args:
        name_or_path (`str` or `Path`): of the encoder.
        modality (`str`): of the encoder.

    Raises:
        InputError: when there is none.
    """
    # Without this, a machine with torchvision would resize images otherwise than one without.
    options = {"backend": "pil"} if modality == "vision" else {}
    missing = InputError(
        f"{name_or_path} lacks the preprocessor of its encoder ({PROCESSORS[modality].__name__}); save it there."
    )
    try:
        processor = PROCESSORS[modality].from_pretrained(name_or_path, **options)
    except (OSError, ValueError) as error:
        raise missing from error
    # Where there is no vocabulary, transformers makes a tokenizer that knows its special tokens alone.
    if modality == "text" and len(processor) <= len(processor.all_special_ids):
        raise missing
    return processor


def at_its_rate(data: DataArguments, processor: Processor) -> DataArguments:
    """Recordings at the sampling rate of an encoder's preprocessor; other data as they are."""
    if isinstance(data, SpeechDataArguments):
        return replace(data, sampling_rate=processor.sampling_rate)
    return data


def random_encoder(encoder: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A freshly initialised encoder of the same config, on the same device, in fp32; the global RNG stays as it was.

    Args:
        encoder (`PreTrainedModel`): whose config is taken.
        seed (`int`): of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):  # transformers initialises with the global RNG, on the CPU
        torch.manual_seed(seed)
        return build_encoder(encoder.config, with_pooler=False).float().to(encoder.device)


def _load_weights(name_or_path: str | Path) -> PreTrainedModel:
    """The encoder, if the checkpoint has all the weights that its hidden states depend on."""
    try:
        with no_load_report():  # missing weights are looked at here
            encoder, found = AutoModel.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unloadable(name_or_path, error) from error
    # Hidden states of unmasked input do not depend on the optional parts.
    missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in OPTIONAL))
    if missing:
        raise InputError(
            f"{name_or_path} lacks {len(missing)} weights of a {type(encoder).__name__}, such as {missing[0]}; give a "
            "checkpoint of that architecture."
        )
    return encoder


def _unloadable(name_or_path: str | Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return InputError(f"No encoder can be loaded from {name_or_path} ({reason}); check the name or folder.")

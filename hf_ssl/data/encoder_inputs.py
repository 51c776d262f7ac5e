"""What a speech encoder reads of a recording: the waveform itself, or log-mel frames of mean 0 and variance 1."""

# S samples, T mel frames, F bands, L inputs of the encoder (samples, or mel frames that may lie side by side)

import math
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import (
    ParakeetFeatureExtractor,
    PreTrainedConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

from hf_ssl.data.features import log_mel
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.front_end import frames_of_inputs
from hf_ssl.modeling.blocks.mel_front_end import FRONT_ENDS, mel_front_end

SpeechProcessor: TypeAlias = Wav2Vec2FeatureExtractor | SeamlessM4TFeatureExtractor | ParakeetFeatureExtractor

MEL_PROCESSORS = (SeamlessM4TFeatureExtractor, ParakeetFeatureExtractor)
"""The feature extractors of transformers that bring each band of a recording, of any length, to mean 0, variance 1."""

KALDI_FRAMING = (400, 160)
"""Samples of a window of `SeamlessM4TFeatureExtractor`, and from one to the next, whatever the sampling rate."""


def fresh_processor(sampling_rate: int, architecture: PreTrainedConfig | None) -> SpeechProcessor:
    """The preprocessor of an encoder that is trained from scratch.

    * An encoder of waveforms has them brought to mean 0 and variance 1.
    * One whose inputs hold two mel frames each (`wav2vec2-bert`) has `SeamlessM4TFeatureExtractor`, as published. That
      one has windows of 400 samples every 160, whatever the rate: 25 and 10 ms at 16 kHz, 50 and 20 ms at 8 kHz.
    * One that reads single frames (`parakeet_encoder` ...) has `ParakeetFeatureExtractor`, with windows of 25 ms every
      10 ms.

    The architecture decides, since transformers' table of feature extractors cannot: it names one of waveforms for
    `wav2vec2-bert`, and for `lasr_encoder` and `nemotron_asr_streaming_encoder` ones that do not normalise.

    Args:
        sampling_rate (`int`): Hz, of the recordings.
        architecture (`PreTrainedConfig`, *optional*): of the encoder; without it, it is taken to read waveforms.
    """
    if architecture is None or architecture.model_type not in FRONT_ENDS:
        return Wav2Vec2FeatureExtractor(sampling_rate=sampling_rate, do_normalize=True, return_attention_mask=True)
    front_end = mel_front_end(architecture)
    if front_end.stack > 1:
        return SeamlessM4TFeatureExtractor(
            feature_size=front_end.num_bands,
            num_mel_bins=front_end.num_bands,
            sampling_rate=sampling_rate,
            stride=front_end.stack,
        )
    window = sampling_rate // 40
    return ParakeetFeatureExtractor(
        feature_size=front_end.num_bands,
        sampling_rate=sampling_rate,
        win_length=window,
        hop_length=sampling_rate // 100,
        n_fft=2 ** math.ceil(math.log2(window)),
    )


def inputs_per_second(processor: SpeechProcessor) -> float:
    """Inputs that the encoder reads of each second of a recording, Hz."""
    match processor:
        case SeamlessM4TFeatureExtractor():
            return processor.sampling_rate / (KALDI_FRAMING[1] * processor.stride)
        case ParakeetFeatureExtractor():
            return processor.sampling_rate / processor.hop_length
    return processor.sampling_rate


def num_inputs(processor: SpeechProcessor, num_samples: int) -> int:
    """L, how many inputs of an encoder its processor makes of a recording, without padding."""
    match processor:
        case SeamlessM4TFeatureExtractor():
            window, hop = KALDI_FRAMING
            return max(0, (num_samples - window) // hop + 1) // processor.stride
        case ParakeetFeatureExtractor():
            return num_samples // processor.hop_length
    return num_samples


def encoder_frames(encoder_config: PreTrainedConfig, num_samples: int, processor: SpeechProcessor) -> int:
    """How many frames an encoder makes of a recording; 0 if it is too short.

    Args:
        encoder_config (`PreTrainedConfig`): of the wav2vec 2.0 family, or of an encoder of log-mel frames.
        num_samples (`int`): of the recording, at the processor's sampling rate.
        processor ([`SpeechProcessor`]): the encoder's feature extractor.

    Raises:
        InputError: for an encoder of neither kind.
    """
    return frames_of_inputs(encoder_config, num_inputs(processor, num_samples))


def encoder_input(processor: SpeechProcessor, waveform: np.ndarray) -> Tensor:
    """What an encoder reads of one recording; the same as its processor gives in evaluation, without padding.

    (Bands without any energy differ a little: those above half the rate that a recording was resampled from hold
    rounding errors only.)

    Args:
        processor ([`SpeechProcessor`]): the encoder's.
        waveform (`np.ndarray`): (S,) at the processor's sampling rate.

    Returns:
        `Tensor`: (S,), or (L, D) with D numbers an input.

    Raises:
        InputError: for a recording of less than two inputs, which has no variance.
    """
    rate = processor.sampling_rate
    if num_inputs(processor, len(waveform)) < 2:
        raise InputError(
            f"A recording of {len(waveform) / rate:.3f} s is too short for log-mel frames; raise data.min_seconds."
        )
    match processor:
        case SeamlessM4TFeatureExtractor():
            return _stacked_log_mel(processor, torch.from_numpy(waveform))
        case ParakeetFeatureExtractor():
            frames = processor(waveform, sampling_rate=rate, return_tensors="pt").input_features[0]
            return frames[: num_inputs(processor, len(waveform))]  # the last of them is padding
    return torch.from_numpy(processor(waveform, sampling_rate=rate, return_tensors="np").input_values[0])


def _stacked_log_mel(processor: SeamlessM4TFeatureExtractor, waveform: Tensor) -> Tensor:
    """What this extractor computes frame by frame, in five times less time: (S,) to (L, stride · F)."""
    # Samples as 16-bit integers, Kaldi's unit: it moves the floor below which bands count as silent.
    mel = log_mel(waveform * 2**15, processor.sampling_rate, processor.num_mel_bins, KALDI_FRAMING)  # (T, F)
    mel = (mel - mel.mean(dim=0)) / (mel.var(dim=0) + 1e-7).sqrt()
    num_rows = len(mel) // processor.stride
    return mel[: num_rows * processor.stride].reshape(num_rows, -1)

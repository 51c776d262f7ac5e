"""Latent SpecAugment (wav2vec 2.0, section 4.3; Park et al. 2019, arXiv:1904.08779): masks for fine-tuning.

Spans of frames are replaced by the encoder's mask embedding and spans of its channels by zeros, before its Transformer
reads them.
"""

# B recordings, T frames, D channels

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig, Wav2Vec2FeatureExtractor

from hf_ssl.data.encoder_inputs import SpeechProcessor, num_inputs
from hf_ssl.data.prepared import Batch
from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.frames import num_frames
from hf_ssl.modeling.blocks.span_masking import span_mask
from hf_ssl.modeling.blocks.waveform import draw_span_masks

MIN_TIME_MASKS = 2
"""The least number of spans of time in a recording, as fairseq has it."""


@dataclass(frozen=True, kw_only=True)
class SpecAugment:
    """How much is masked. A share is the expected mass of the spans before they overlap; 0 masks nothing.

    Args:
        time_prob (`float`): share of the frames, in [0, 1]; with it at least two spans a recording.
        time_length (`int`): frames a span.
        channel_prob (`float`): share of the channels, in [0, 1].
        channel_length (`int`): channels a span.
    """

    time_prob: float = 0.0
    time_length: int = 10
    channel_prob: float = 0.0
    channel_length: int = 64

    def draw(self, frames: list[int], num_channels: int, generators: list[torch.Generator]) -> Batch:
        """Draws the masks of a batch, each row's from its own generator.

        Args:
            frames (`list[int]`): of each recording.
            num_channels (`int`): D, the encoder's hidden size.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: boolean, `True` = masked: `mask_time_indices` (B, T), T the frames of the longest
                recording, and `mask_channel_indices` (B, D), each unless its share is 0.
        """
        masks: Batch = {}
        if self.time_prob > 0:
            masks["mask_time_indices"] = draw_span_masks(
                frames,
                max(frames),
                probability=self.time_prob,
                length=self.time_length,
                min_masks=MIN_TIME_MASKS,
                generators=generators,
            )
        if self.channel_prob > 0:
            rows = [span_mask(num_channels, self.channel_prob, self.channel_length, 0, g) for g in generators]
            masks["mask_channel_indices"] = torch.stack(rows)
        return masks


@dataclass(kw_only=True)
class SpecAugmentCollator:
    """Adds the masks of SpecAugment to the training batches of another collator.

    Args:
        inputs (`Callable`): makes the batch, from the beginnings of longer recordings where `max_seconds` is given.
        spec_augment ([`SpecAugment`]): how much is masked.
        encoder_config (`PreTrainedConfig`): of the encoder.
        processor ([`SpeechProcessor`]): its feature extractor.
        seed (`int`): of the run.
        max_seconds (`float`): of a recording.

    Called with a list of rows with their `key` and `length` (seconds), gives their batch with `mask_time_indices`
    (B, T) and `mask_channel_indices` (B, D). What is drawn for a row is known by (seed, epoch, index) and does not
    depend on the rows beside it.
    """

    inputs: Callable[[list[dict[str, Any]]], Batch]
    spec_augment: SpecAugment
    encoder_config: PreTrainedConfig
    processor: SpeechProcessor
    seed: int
    max_seconds: float = math.inf

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:  # noqa: D102 - described by the class
        batch = self.inputs(examples)
        generators = [item_generator(self.seed, *example["key"]) for example in examples]
        samples = [self._num_samples(example["length"]) for example in examples]
        frames = [self._num_frames(num_inputs(self.processor, number)) for number in samples]
        masks = self.spec_augment.draw(frames, self.encoder_config.hidden_size, generators)
        if "mask_time_indices" in masks:
            # Drawn for the longest recording; its batch may be padded further.
            columns = self._num_frames(batch[self.processor.model_input_names[0]].shape[1])
            masks["mask_time_indices"] = F.pad(masks["mask_time_indices"], (0, columns - max(frames)))
        return {**batch, **masks}

    def _num_samples(self, seconds: float) -> int:
        return round(min(seconds, self.max_seconds) * self.processor.sampling_rate)

    def _num_frames(self, num_inputs: int) -> int:
        """Frames that the Transformer reads: fewer than samples, but mel frames as they are."""
        is_waveform = isinstance(self.processor, Wav2Vec2FeatureExtractor)
        return num_frames(self.encoder_config, num_inputs) if is_waveform else num_inputs

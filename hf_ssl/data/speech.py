"""Recordings to what a speech objective is trained on: equally long waveforms, with the units of the same moments."""

# B recordings, S samples, U units

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import IterableDataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.data.prepared import Batch, PreparedData
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.units import load_units
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED


def prepare_speech(args: SpeechDataArguments, *, seed: int, encoder: str | None) -> PreparedData:
    """Loads recordings, and their units if `args.units` names a folder of them.

    Args:
        args ([`SpeechDataArguments`]): the `data` section.
        seed (`int`): of the run.
        encoder (`str`, *optional*): the encoder that the run starts from, whose feature extractor is used; without one
            waveforms are brought to mean 0 and variance 1.

    Returns:
        [`PreparedData`]: items with `audio`, `length` (seconds) and, with units, `units`.

    Raises:
        InputError: for recordings, units or a feature extractor that cannot be used, or do not belong together.
    """
    processor = feature_extractor(args.sampling_rate, encoder)
    train, validation, num_skipped = load_usable(args, "speech", seed)
    collator = SpeechCollator(processor=processor, seed=seed, max_seconds=args.max_seconds)
    config_updates: dict[str, Any] = {}
    if args.units is not None:
        if args.streaming:
            raise InputError("The units in data.units belong to the rows of stored data; set data.streaming=false.")
        units = load_units(args.units)
        train = units.join(train, "train")
        validation = None if validation is None else units.join(validation, "validation")
        collator.label_rate = units.label_rate
        config_updates = {"num_clusters": units.num_clusters, "label_rate": units.label_rate}
        config_updates["sampling_rate"] = args.sampling_rate
    is_stream = isinstance(train, IterableDataset)
    return PreparedData(
        train=KeyedIterableDataset(train) if is_stream else KeyedDataset(train),
        validation=None if validation is None else KeyedDataset(validation),
        collator=collator,
        processor=processor,
        config_updates=config_updates,
        lengths=None if is_stream else [min(length, args.max_seconds) for length in train["length"]],
        num_skipped=num_skipped,
    )


def feature_extractor(sampling_rate: int, encoder: str | None) -> Wav2Vec2FeatureExtractor:
    """The preprocessor saved beside the encoder: its own, or one that brings waveforms to mean 0 and variance 1.

    Raises:
        InputError: when the encoder to start from has none, or one for other inputs or another sampling rate.
    """
    if encoder is None:
        return Wav2Vec2FeatureExtractor(sampling_rate=sampling_rate, do_normalize=True, return_attention_mask=True)
    try:
        processor = AutoFeatureExtractor.from_pretrained(encoder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The encoder {encoder!r} has no feature extractor (preprocessor_config.json); save one beside it."
        ) from error
    if not isinstance(processor, Wav2Vec2FeatureExtractor):
        raise InputError(
            f"The encoder {encoder!r} does not take waveforms but what {type(processor).__name__} makes of them; "
            "choose one of the wav2vec 2.0 family (hubert, wav2vec2, wavlm, unispeech-sat, data2vec-audio, sew)."
        )
    if processor.sampling_rate != sampling_rate:
        raise InputError(
            f"The encoder {encoder!r} takes recordings at {processor.sampling_rate} Hz, but data.sampling_rate is "
            f"{sampling_rate}; set it to {processor.sampling_rate}."
        )
    return processor


@dataclass
class SpeechCollator:
    """Crops every recording at random to the shortest of its batch, so that there is no padding and no attention mask.

    Normalisation sees the whole recording, before it is cropped (as in fairseq).

    Args:
        processor (`Wav2Vec2FeatureExtractor`): its sampling rate is what recordings are resampled to; it normalises.
        seed (`int`): of the run.
        max_seconds (`float`): crops are at most this long.
        label_rate (`float`, *optional*): of the units, Hz, where items have them.
        draw (`Callable`, *optional*): the objective's `draw_inputs`, with its config bound.

    Called with a list of items, gives `input_values` (B, S); `units` (B, U) of the same stretch of time, padded with
    −100 where a recording's end has none; and what `draw` makes of them.
    """

    processor: Wav2Vec2FeatureExtractor
    seed: int
    max_seconds: float
    label_rate: float | None = None
    draw: Callable[[Batch, list[torch.Generator]], Batch] | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:  # noqa: D102 - described by the class
        generators = [item_generator(self.seed, *example["key"]) for example in examples]
        waveforms = [self._waveform(example) for example in examples]
        num_samples = min(round(self.max_seconds * self.processor.sampling_rate), *map(len, waveforms))
        starts = [
            int(torch.randint(len(waveform) - num_samples + 1, (), generator=generator))
            for waveform, generator in zip(waveforms, generators, strict=True)
        ]
        crops = [waveform[start : start + num_samples] for waveform, start in zip(waveforms, starts, strict=True)]
        batch = {"input_values": torch.stack(crops)}
        if self.label_rate is not None:
            rate = self.label_rate / self.processor.sampling_rate  # units a sample
            batch["units"] = pad_sequence(
                [
                    torch.as_tensor(example["units"])[round(start * rate) :][: round(num_samples * rate)]
                    for example, start in zip(examples, starts, strict=True)
                ],
                batch_first=True,
                padding_value=IGNORED,
            )
        return self.draw(batch, generators) if self.draw else batch

    def _waveform(self, example: dict[str, Any]) -> Tensor:
        rate = self.processor.sampling_rate
        waveform = decode_audio(example["audio"], rate)
        return torch.from_numpy(self.processor(waveform, sampling_rate=rate, return_tensors="np").input_values[0])

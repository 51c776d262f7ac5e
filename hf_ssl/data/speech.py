"""Recordings to what a speech objective is trained on: equally long inputs, with the units of the same moments."""

# B recordings, S samples, L inputs of the encoder (samples, or log-mel frames of D numbers), U units

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, PreTrainedConfig, Wav2Vec2FeatureExtractor

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.encoder_inputs import (
    MEL_PROCESSORS,
    SpeechProcessor,
    encoder_input,
    fresh_processor,
    inputs_per_second,
)
from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.data.mixing import UtteranceMixing, overlap
from hf_ssl.data.multilingual import language_repeats
from hf_ssl.data.prepared import Batch, PreparedData
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.units import load_units
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED


def prepare_speech(
    args: SpeechDataArguments, *, seed: int, encoder: str | None, architecture: PreTrainedConfig | None = None
) -> PreparedData:
    """Loads recordings, and their units if `args.units` names a folder of them.

    Args:
        args ([`SpeechDataArguments`]): the `data` section.
        seed (`int`): of the run.
        encoder (`str`, *optional*): the encoder that the run starts from, whose feature extractor is used.
        architecture (`PreTrainedConfig`, *optional*): of the encoder that is trained from scratch, if it is: it says
            whether waveforms or log-mel frames are read; see [`fresh_processor`].

    Returns:
        [`PreparedData`]: items with `audio`, `length` (seconds) and, with units, `units`.

    Raises:
        InputError: for recordings, units or a feature extractor that cannot be used, or do not belong together.
    """
    processor = feature_extractor(args.sampling_rate, encoder, architecture)
    if args.mixing_probability > 0 and isinstance(processor, MEL_PROCESSORS):
        raise InputError("data.mixing_probability is for encoders that read waveforms; set it to 0.")
    train, validation, num_skipped = load_usable(args, "speech", seed)
    collator = SpeechCollator(processor=processor, seed=seed, max_seconds=args.max_seconds)
    if isinstance(train, IterableDataset):
        _refuse_what_needs_rows(args)
        held_out = None if validation is None else KeyedDataset(validation)
        return PreparedData(KeyedIterableDataset(train), held_out, collator, processor, num_skipped=num_skipped)
    config_updates: dict[str, Any] = {}
    if args.units is not None:
        units = load_units(args.units)
        train = units.join(train, "train")
        validation = None if validation is None else units.join(validation, "validation")
        collator.label_rate = units.label_rate
        config_updates = {"num_clusters": units.num_clusters, "label_rate": units.label_rate}
        config_updates["sampling_rate"] = args.sampling_rate
    if args.mixing_probability > 0:
        collator.mixing = UtteranceMixing(train.select_columns(["audio"]), args.mixing_probability)
    lengths = [min(length, args.max_seconds) for length in train["length"]]
    return PreparedData(
        train=KeyedDataset(train),
        validation=None if validation is None else KeyedDataset(validation),
        collator=collator,
        processor=processor,
        config_updates=config_updates,
        lengths=lengths,
        repeats=_repeats(train, lengths, args),
        num_skipped=num_skipped,
    )


def _refuse_what_needs_rows(args: SpeechDataArguments) -> None:
    """Of a stream it is not known which recordings there are."""
    for name in ("units", "mixing_probability", "language_column"):
        if getattr(args, name):
            raise InputError(f"data.{name} is for stored data, not for a stream; set data.streaming=false.")


def _repeats(train: Dataset, seconds: Sequence[float], args: SpeechDataArguments) -> Sequence[float] | None:
    if args.language_column is None:
        return None
    column = "label" if args.language_column == args.label_column else args.language_column
    return language_repeats(train[column], seconds, args.sampling_alpha).tolist()


def feature_extractor(
    sampling_rate: int, encoder: str | None, architecture: PreTrainedConfig | None = None
) -> SpeechProcessor:
    """The preprocessor saved beside the encoder: its own, or that of a fresh one ([`fresh_processor`]).

    Raises:
        InputError: when the encoder to start from has none, or one for other inputs or another sampling rate.
    """
    if encoder is None:
        return fresh_processor(sampling_rate, architecture)
    try:
        processor = AutoFeatureExtractor.from_pretrained(encoder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The encoder {encoder!r} has no feature extractor (preprocessor_config.json); save one beside it."
        ) from error
    if not isinstance(processor, (Wav2Vec2FeatureExtractor, *MEL_PROCESSORS)):
        raise InputError(
            f"The encoder {encoder!r} does not take waveforms but what {type(processor).__name__} makes of them; "
            "choose one of the wav2vec 2.0 family (hubert, wav2vec2, wavlm, unispeech-sat, data2vec-audio, sew), or "
            "one of log-mel frames of mean 0 and variance 1 (wav2vec2-bert, parakeet_encoder)."
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

    Normalisation sees the whole recording, before it is cropped (as in fairseq), and so does the computation of
    log-mel frames, which are cropped in their place.

    Args:
        processor ([`SpeechProcessor`]): its sampling rate is what recordings are resampled to; it normalises.
        seed (`int`): of the run.
        max_seconds (`float`): crops are at most this long.
        label_rate (`float`, *optional*): of the units, Hz, where items have them.
        mixing ([`UtteranceMixing`], *optional*): other recordings to mix into the crops, which are then normalised
            again (as in WavLM); the units stay.
        draw (`Callable`, *optional*): the objective's `draw_inputs`, with its config bound.

    Called with a list of items, gives `input_values` (B, S) or `input_features` (B, L, D), as the processor names
    them; `units` (B, U) of the same stretch of time, padded with −100 where a recording's end has none; and what
    `draw` makes of them.
    """

    processor: SpeechProcessor
    seed: int
    max_seconds: float
    label_rate: float | None = None
    mixing: UtteranceMixing | None = None
    draw: Callable[[Batch, list[torch.Generator]], Batch] | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:  # noqa: D102 - described by the class
        generators = [item_generator(self.seed, *example["key"]) for example in examples]
        recordings = [self._read(example) for example in examples]
        rate = inputs_per_second(self.processor)
        length = min(round(self.max_seconds * rate), *map(len, recordings))
        starts = [
            int(torch.randint(len(recording) - length + 1, (), generator=generator))
            for recording, generator in zip(recordings, generators, strict=True)
        ]
        crops = [recording[start : start + length] for recording, start in zip(recordings, starts, strict=True)]
        if self.mixing is not None:
            crops = [
                self._mixed(self.mixing, crop, example, generator)
                for crop, example, generator in zip(crops, examples, generators, strict=True)
            ]
        batch = {self.processor.model_input_names[0]: torch.stack(crops)}
        if self.label_rate is not None:
            ratio = self.label_rate / rate  # units an input
            batch["units"] = pad_sequence(
                [
                    torch.as_tensor(example["units"])[round(start * ratio) :][: round(length * ratio)]
                    for example, start in zip(examples, starts, strict=True)
                ],
                batch_first=True,
                padding_value=IGNORED,
            )
        return self.draw(batch, generators) if self.draw else batch

    def _mixed(
        self, mixing: UtteranceMixing, crop: Tensor, example: dict[str, Any], generator: torch.Generator
    ) -> Tensor:
        other = mixing.draw(example["key"].index, generator)
        if other is None:
            return crop
        return encoder_input(self.processor, overlap(crop, self._read(other), generator).numpy())

    def _read(self, example: dict[str, Any]) -> Tensor:
        return encoder_input(self.processor, decode_audio(example["audio"], self.processor.sampling_rate))

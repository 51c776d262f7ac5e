"""What a task is fine-tuned on: splits with labels, batches of them, and what they decide of the model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Wav2Vec2Processor

from hf_ssl.data.arguments import (
    DATA_ARGUMENTS,
    DataArguments,
    ImageDataArguments,
    SpeechDataArguments,
    TextDataArguments,
)
from hf_ssl.data.checking import report_broken
from hf_ssl.data.encoder_inputs import SpeechProcessor, encoder_frames
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.labelled_images import augmented, is_augmented
from hf_ssl.data.loading import load_splits
from hf_ssl.data.low_shot import low_shot
from hf_ssl.data.prepared import Batch
from hf_ssl.data.spec_augment import SpecAugmentCollator
from hf_ssl.data.transcripts import TranscriptCollator, TranscriptForm, why_not_alignable
from hf_ssl.data.usable import usable
from hf_ssl.data.word_labels import WordLabelCollator
from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import at_its_rate, load_encoder_config, load_preprocessor
from hf_ssl.modeling.blocks.mel_front_end import FRONT_ENDS
from hf_ssl.modeling.blocks.pretrained import Processor
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.tasks import task_named

TaskCollator = Callable[[list[dict[str, Any]]], Batch]


@dataclass
class TaskData:
    """Data ready for fine-tuning.

    Args:
        splits (`DatasetDict`): `train` and, as far as there are any, `validation` and `test`.
        collator (`Callable`): rows to a batch with `labels`.
        processor ([`Processor`]): saved with the model.
        config_updates (`dict[str, Any]`): fields of the model's config: the label map, or CTC's vocabulary.
        metrics (`tuple[str, ...]`): names for [`hf_ssl.evaluation.metrics.load_metric`], the most telling first.
        lengths (`list[float]`, *optional*): seconds of each training item, for batches of like length.
        augment (`Callable`, *optional*): makes the collator of the training, of `inputs` (the other one) and `seed`.
        facts (`dict[str, Any]`): what `metrics.json` says of the data.
    """

    splits: DatasetDict
    collator: TaskCollator
    processor: Processor
    config_updates: dict[str, Any]
    metrics: tuple[str, ...]
    lengths: list[float] | None = None
    augment: Callable[..., TaskCollator] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def prepare_task(model: FineTuningModelArguments, data: DataArguments) -> TaskData:
    """Load the data of a fine-tuning run.

    Args:
        model ([`FineTuningModelArguments`]): the `model` section.
        data ([`DataArguments`]): the `data` section, of the task's modality.

    Raises:
        InputError: for data that cannot be used: broken items, classes that are missing or not among those of the
            training split, recordings too short for their transcripts.
    """
    assert isinstance(data, DATA_ARGUMENTS[task_named(model.task).modality])
    if data.streaming:
        raise InputError("data.streaming is for pretraining; fine-tuning needs all labels at once, so leave it out.")
    load_encoder_config(model.encoder)  # whether there is one, before anything is said of its parts
    prepared = PREPARE[model.task](model, data)
    prepared.facts["num_train_items"] = len(prepared.splits["train"])
    if data.train_fraction is not None:
        prepared.facts |= {
            "train_fraction": data.train_fraction,
            "train_fraction_seed": data.train_fraction_seed,
        }
    return prepared


def _classes(model: FineTuningModelArguments, data: DataArguments) -> TaskData:
    """Images, texts or recordings with one class each."""
    modality = task_named(model.task).modality
    processor = load_preprocessor(model.encoder, modality)
    data = at_its_rate(data, processor)
    splits = _labelled_splits(model, data)
    splits = DatasetDict(usable(splits, modality, data))
    splits["train"] = low_shot(splits["train"], data)
    collator = LabelledCollator(
        modality=modality,
        processor=processor,
        max_seconds=data.max_seconds if isinstance(data, SpeechDataArguments) else None,
        max_length=_max_length(data, processor) if isinstance(data, TextDataArguments) else None,
    )
    label_map = _label_map(splits["train"].features["label"].names, data)
    prepared = TaskData(
        splits,
        collator,
        processor,
        {"problem_type": "single_label_classification", **label_map},
        task_named(model.task).metrics,
    )
    if isinstance(data, SpeechDataArguments):
        prepared.lengths = [min(length, data.max_seconds) for length in splits["train"]["length"]]
        prepared.augment = _augmentation(model, processor, data.max_seconds)
    elif isinstance(data, ImageDataArguments) and is_augmented(data):
        prepared.augment = partial(augmented, data=data, processor=processor)
    return prepared


def _words(model: FineTuningModelArguments, data: DataArguments) -> TaskData:
    """Texts as lists of words with a class for each."""
    assert isinstance(data, TextDataArguments)
    splits = _labelled_splits(model, data)

    def problem(row: dict[str, Any], index: int) -> str | None:
        if row["text"] and len(row["text"]) == len(row["label"]):
            return None
        return f"Row {index} has {len(row['text'])} words and {len(row['label'])} classes; give one class a word."

    splits = DatasetDict({name: _leave_out(split, problem, data.on_error) for name, split in splits.items()})
    splits["train"] = low_shot(splits["train"], data)
    tokenizer = load_preprocessor(model.encoder, "text")
    collator = WordLabelCollator(tokenizer=tokenizer, max_length=_max_length(data, tokenizer))
    label_map = _label_map(splits["train"].features["label"].feature.names, data)
    return TaskData(splits, collator, tokenizer, label_map, task_named(model.task).metrics)


def _transcripts(model: FineTuningModelArguments, data: DataArguments) -> TaskData:
    """Recordings with their transcripts."""
    assert isinstance(data, SpeechDataArguments)
    config = load_encoder_config(model.encoder)
    if "conv_kernel" not in config.to_dict() and config.model_type not in FRONT_ENDS:
        raise InputError(
            f"{model.encoder} ({config.model_type}) reads neither waveforms nor log-mel frames of any length; CTC "
            "needs an encoder that does."
        )
    extractor = load_preprocessor(model.encoder, "speech")
    form = TranscriptForm(unit=data.text_unit, normalise=data.normalise_text)
    splits = alignable_splits(replace(data, sampling_rate=extractor.sampling_rate), form, config, extractor)
    tokenizer = form.tokenizer(splits["train"]["text"])
    return TaskData(
        splits,
        TranscriptCollator(inputs=LabelledCollator(modality="speech", processor=extractor), tokenizer=tokenizer),
        Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer),
        {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "ctc_zero_infinity": True,
            "ctc_loss_reduction": "sum",
            "text_unit": form.unit,
            "normalise_text": form.normalise,
        },
        ("per",) if form.unit == "phones" else task_named(model.task).metrics,
        lengths=list(splits["train"]["length"]),
        augment=_augmentation(model, extractor, math.inf),
        facts={"transcripts": form.description},
    )


def alignable_splits(
    data: SpeechDataArguments, form: TranscriptForm, config: PreTrainedConfig, extractor: SpeechProcessor
) -> DatasetDict:
    """The recordings that CTC can learn, with their cleaned transcripts; columns `audio`, `text` and `length`."""
    splits = load_splits(replace(data, label_column=None), "speech")
    if "text" not in splits["train"].column_names:
        raise InputError(f"{data.path} has no transcripts; name their column in data.text_column.")

    def problem(row: dict[str, Any], index: int, max_seconds: float) -> str | None:
        frames = encoder_frames(config, round(row["length"] * extractor.sampling_rate), extractor)
        reason = why_not_alignable(form.units(row["text"]), frames)
        if row["length"] > max_seconds:
            # It would have to be cut, and what is said in the rest of it is not known.
            reason = f"it is longer than data.max_seconds ({max_seconds:g})"
        name = row["audio"]["path"] or f"Row {index}"
        return reason and f"{name}, {row['length']:.2f} s, cannot be learnt with CTC: {reason}."

    splits = DatasetDict(usable(splits, "speech", data))
    for name, split in splits.items():
        split = split.select_columns(["audio", "text", "length"])
        split = split.map(lambda row: {"text": form.clean(row["text"])}, desc="Cleaning the transcripts")
        max_seconds = data.max_seconds if name == "train" else math.inf  # a long recording can be scored, whole
        splits[name] = _leave_out(split, partial(problem, max_seconds=max_seconds), data.on_error)
    splits["train"] = low_shot(splits["train"], data)
    return splits


def _augmentation(
    model: FineTuningModelArguments, extractor: SpeechProcessor, max_seconds: float
) -> Callable[..., TaskCollator] | None:
    """What makes the training's collator of another one and the run's seed, if anything is masked."""
    if model.spec_augment is None:
        return None
    return partial(
        SpecAugmentCollator,
        spec_augment=model.spec_augment,
        encoder_config=load_encoder_config(model.encoder),
        processor=extractor,
        max_seconds=max_seconds,
    )


PREPARE: dict[str, Callable[[FineTuningModelArguments, DataArguments], TaskData]] = {
    "image-classification": _classes,
    "text-classification": _classes,
    "token-classification": _words,
    "audio-classification": _classes,
    "ctc": _transcripts,
}


def _labelled_splits(model: FineTuningModelArguments, data: DataArguments) -> DatasetDict:
    modality = task_named(model.task).modality
    if data.label_column is None:
        columns = load_splits(data, modality)["train"].column_names
        raise InputError(
            f"{model.task} needs classes; name their column in data.label_column ({data.path} has "
            f"{', '.join(columns)})."
        )
    return load_splits(data, modality)


def _max_length(data: TextDataArguments, tokenizer: PreTrainedTokenizerBase) -> int:
    """`data.max_length`, unless the encoder takes fewer tokens."""
    return min(data.max_length, tokenizer.model_max_length)


def _label_map(names: Sequence[str], data: DataArguments) -> dict[str, Any]:
    if len(names) < 2:
        raise InputError(f"Column {data.label_column!r} of {data.path} has one class only; give at least two.")
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _leave_out(split: Dataset, problem: Callable[[dict[str, Any], int], str | None], on_error: str) -> Dataset:
    """The rows without a problem; those with one raise or are counted and reported."""
    problems = {index: reason for index, row in enumerate(split) if (reason := problem(row, index))}
    report_broken(list(problems.values()), len(split), on_error)
    return split.select([index for index in range(len(split)) if index not in problems])

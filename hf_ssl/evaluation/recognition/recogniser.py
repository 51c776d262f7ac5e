"""A CTC model with what it was trained to write, and recordings as it hears them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.data.usable import usable
from hf_ssl.errors import unknown_name
from hf_ssl.evaluation.recognition.emissions import emissions
from hf_ssl.evaluation.recognition.error_rates import METRICS, ErrorCounts, count_errors
from hf_ssl.evaluation.recognition.hypothesis import Decoder, Hypothesis
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary


@dataclass
class HeardRecordings:
    """Recordings of a split as a model hears them.

    Args:
        names (`list[str]`): file names, or row numbers.
        seconds (`list[float]`): their lengths.
        references (`list[str]`): what is said in them, in the model's form; empty where it is not known.
        log_probs (`list[np.ndarray]`): for each (T, V), float32: see [`emissions`].
    """

    names: list[str]
    seconds: list[float]
    references: list[str]
    log_probs: list[np.ndarray]

    @property
    def scored(self) -> list[int]:
        """The recordings whose transcript is known."""
        return [row for row, reference in enumerate(self.references) if reference]

    def count_errors(self, transcripts: Sequence[str], metric: str) -> ErrorCounts:
        """The errors of transcripts of all recordings, in those whose transcript is known."""
        scored = self.scored
        return count_errors([self.references[row] for row in scored], [transcripts[row] for row in scored], metric)


@dataclass
class Recogniser:
    """A CTC model, its processor and the form of its transcripts.

    Args:
        model (`PreTrainedModel`): with a CTC head, any that transformers has.
        processor (`ProcessorMixin`): its feature extractor and tokenizer.
    """

    model: PreTrainedModel
    processor: ProcessorMixin

    def __post_init__(self) -> None:
        self.vocabulary = CTCVocabulary.of(self.processor.tokenizer, self.model.config.vocab_size)
        settings = self.model.config.to_dict()
        # What `hf-ssl finetune` trained says what its transcripts are; of a published model its letters tell.
        if "text_unit" in settings:
            self.form = TranscriptForm(unit=settings["text_unit"], normalise=settings["normalise_text"])
        else:
            self.form = self.vocabulary.form

    @property
    def metrics(self) -> tuple[str, ...]:
        """The error rates of its transcripts, the most telling first."""
        return METRICS[self.form.unit]

    def hear(self, data: SpeechDataArguments, split: str) -> HeardRecordings:
        """Compute what the model says of each frame of a split.

        Args:
            data ([`SpeechDataArguments`]): the recordings; they are read whole, whatever `max_seconds` is.
            split (`str`): `"train"`, `"validation"` or `"test"`.

        Raises:
            InputError: for data that cannot be used, or a split that there is not.
        """
        extractor = self.processor.feature_extractor
        data = replace(data, sampling_rate=extractor.sampling_rate, label_column=None, streaming=False)
        splits = load_splits(data, "speech")
        if split not in splits:
            raise unknown_name(f"split of {data.path}", split, splits)
        recordings = usable({"train": splits[split]}, "speech", data)["train"]
        texts = recordings["text"] if "text" in recordings.column_names else [None] * len(recordings)
        return HeardRecordings(
            names=[audio["path"] or f"row {row}" for row, audio in enumerate(recordings["audio"])],
            seconds=list(recordings["length"]),
            references=[self.form.clean(text) for text in texts],
            log_probs=emissions(self.model, self.processor, recordings, description=f"Hearing {split}"),
        )


def decode_all(
    decoder: Decoder, log_probs: Sequence[np.ndarray], description: str = "Decoding"
) -> list[list[Hypothesis]]:
    """The n-best lists of recordings."""
    return [decoder.decode(frames) for frames in tqdm(log_probs, desc=description, leave=False, disable=None)]

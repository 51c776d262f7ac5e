"""Errors of transcripts: counted for each recording, so that rates have intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from hf_ssl.errors import InputError
from hf_ssl.evaluation.intervals import Difference, Interval, difference, error_rate

METRICS = {"characters": ("wer", "cer"), "phones": ("per",)}
"""Of a model that writes characters or phones, the most telling first."""


@dataclass(frozen=True)
class ErrorCounts:
    """Substitutions, deletions and insertions of each recording under one metric.

    Args:
        errors (`list[int]`): of each recording.
        units (`list[int]`): words, characters or phones of each reference.
    """

    errors: list[int]
    units: list[int]

    @property
    def value(self) -> float:
        """The error rate of all recordings together."""
        return sum(self.errors) / sum(self.units)

    def rate(self) -> Interval:
        """The error rate with its 95 % bootstrap interval."""
        return error_rate(self.errors, self.units)

    def less(self, other: "ErrorCounts") -> Difference:
        """This error rate less another one of the same recordings."""
        return difference(self.errors, other.errors, self.units)


def count_errors(references: Sequence[str], transcripts: Sequence[str], metric: str) -> ErrorCounts:
    """Align each transcript with its reference (Levenshtein) and count.

    Args:
        references (`Sequence[str]`): what was said; none empty.
        transcripts (`Sequence[str]`): what was recognised; may be empty.
        metric (`str`): `"wer"` (words), `"cer"` (characters, spaces included) or `"per"` (phones, a space apart).

    Raises:
        InputError: when there are no references.
    """
    if not references:
        raise InputError("No recording of the split has a transcript to compare with; choose another split.")
    align = jiwer.process_characters if metric == "cer" else jiwer.process_words
    counts = [align(*pair) for pair in zip(references, transcripts, strict=True)]
    return ErrorCounts(
        errors=[count.substitutions + count.deletions + count.insertions for count in counts],
        units=[count.substitutions + count.deletions + count.hits for count in counts],
    )

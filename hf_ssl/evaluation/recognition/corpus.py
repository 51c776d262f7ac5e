"""Text to learn a language model from: files to numbered words between sentence boundaries."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from hf_ssl.data.transcripts import WORD_BOUNDARY, TranscriptForm
from hf_ssl.errors import InputError

UNKNOWN, BEGINNING, END = range(3)
"""The numbers of the words that every vocabulary begins with."""

SPECIAL_WORDS = ("<unk>", "<s>", "</s>")


UNITS: dict[str, Callable[[str], list[str]]] = {
    "words": str.split,
    "phones": str.split,
    "letters": lambda sentence: list(WORD_BOUNDARY.join(sentence.split())),
}
"""What a language model predicts: how a sentence is divided into it. Between letters of two words is the boundary."""


def read_sentences(files: Sequence[str | Path], form: TranscriptForm) -> Iterator[str]:
    """The lines of text files in the form of transcripts; lines of which nothing is left are left out.

    Args:
        files (`Sequence[str | Path]`): UTF-8, a sentence a line.
        form ([`TranscriptForm`]): of the transcripts that the language model is for.

    Raises:
        InputError: for a file that does not exist or is not UTF-8.
    """
    paths = [Path(file) for file in files]
    for path in paths:
        if not path.is_file():
            raise InputError(f"There is no text file {path}; give files with one sentence a line.")
    with tqdm(total=sum(path.stat().st_size for path in paths), unit="B", unit_scale=True, desc="Reading") as progress:
        for path in paths:
            try:
                with path.open(encoding="utf-8") as lines:
                    for line in lines:
                        progress.update(len(line.encode()))
                        if sentence := form.clean(line):
                            yield sentence
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error


@dataclass
class Corpus:
    """A text as numbers.

    Args:
        tokens (`np.ndarray`): (P,), int32: words by number; every sentence stands between [`BEGINNING`] and [`END`].
        words (`list[str]`): by number, the [`SPECIAL_WORDS`] first.
    """

    tokens: np.ndarray
    words: list[str] = field(repr=False)

    @classmethod
    def of(cls, sentences: Iterable[str], unit: str = "words") -> "Corpus":
        """A corpus whose vocabulary is all that occurs.

        Args:
            sentences (`Iterable[str]`): see [`read_sentences`].
            unit (`str`): a key of [`UNITS`].

        Raises:
            InputError: when there is no sentence.
        """
        numbers = {word: number for number, word in enumerate(SPECIAL_WORDS)}
        tokens = array("i")
        for sentence in sentences:
            tokens.append(BEGINNING)
            tokens.extend(numbers.setdefault(word, len(numbers)) for word in UNITS[unit](sentence))
            tokens.append(END)
        if not tokens:
            raise InputError("The text has no line of which something is left; give files with one sentence a line.")
        return cls(np.asarray(tokens, dtype=np.int32), list(numbers))

    @classmethod
    def in_words(cls, sentences: Iterable[str], words: Sequence[str], unit: str = "words") -> "Corpus":
        """A corpus in a given vocabulary; what is not in it is [`UNKNOWN`]."""
        numbers = {word: number for number, word in enumerate(words)}
        tokens = array("i")
        for sentence in sentences:
            tokens.append(BEGINNING)
            tokens.extend(numbers.get(word, UNKNOWN) for word in UNITS[unit](sentence))
            tokens.append(END)
        return cls(np.asarray(tokens, dtype=np.int32), list(words))

    @property
    def positions(self) -> np.ndarray:
        """(P,), int64: of each token in its sentence, 0 at its beginning."""
        where = np.arange(len(self.tokens))
        return where - np.maximum.accumulate(np.where(self.tokens == BEGINNING, where, 0))

"""N-gram language models as columns of numbers: queried for whole texts at once, written as ARPA files."""

# N order of the model, k order of an n-gram, V words of the vocabulary, P positions in a text, n_k distinct k-grams

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm.auto import tqdm

from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.recognition.corpus import BEGINNING, SPECIAL_WORDS, UNKNOWN, Corpus

LINES_AT_ONCE = 100_000
NEVER = -99.0
"""What ARPA files write for log10 of 0, such as the probability of the beginning of a sentence."""


KENLM_MAGIC = b"mmap lm http://kheafield.com/code"


@dataclass
class Level:
    """The n-grams of one order k.

    Args:
        keys (`np.ndarray`): (n_k,), int64, increasing: the number of the n-gram's first k − 1 words among the
            (k−1)-grams, times V, plus its last word; for k = 1 the word.
        probabilities (`np.ndarray`): (n_k,), of the last word after the others.
        backoffs (`np.ndarray`): (n_k,), what P(word | the last words of the n-gram) is multiplied by where the
            (k+1)-gram is not in the model; 1 where the n-gram is nobody's history.
    """

    keys: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of n-grams by key, int64 of the same shape; −1 for those that are not here."""
        places = np.searchsorted(self.keys, keys)
        places[places == len(self.keys)] = 0
        return np.where(self.keys[places] == keys, places, -1)


@dataclass
class NgramModel:
    """P(word | up to N − 1 words before it in its sentence).

    Args:
        words (`list[str]`): the vocabulary, by number; see [`Corpus`].
        levels (`list[Level]`): of the orders 1 to N.
    """

    words: list[str]
    levels: list[Level]

    def log_probabilities(self, corpus: Corpus) -> np.ndarray:
        """The ln P of every token of a text in the model's vocabulary.

        Args:
            corpus ([`Corpus`]): see [`Corpus.in_words`].

        Returns:
            `np.ndarray` of shape (P,), float64: 0 at the beginnings of sentences, which are given.
        """
        tokens, positions = corpus.tokens.astype(np.int64), corpus.positions
        found = tokens  # the number of the k-gram that ends at each position; -1 if it is not in the model
        total = self.levels[0].probabilities[tokens]
        for k in range(2, len(self.levels) + 1):
            level, below = self.levels[k - 1], self.levels[k - 2]
            history = np.where(positions >= k - 1, np.roll(found, 1), -1)
            shorter = np.where(history >= 0, below.backoffs[history], 1.0) * total
            found = np.where(history >= 0, level.find(history * len(self.words) + tokens), -1)
            total = np.where(found >= 0, level.probabilities[found], shorter)
        return np.log(np.where(tokens == BEGINNING, 1.0, total))

    def spelled(self, level: int, rows: np.ndarray) -> list[str]:
        """N-grams by number, their words separated by spaces; `level` is k − 1."""
        columns = []
        for below in range(level, -1, -1):
            rows, words = np.divmod(self.levels[below].keys[rows], len(self.words))
            columns.append([self.words[word] for word in words])
        return list(map(" ".join, zip(*reversed(columns), strict=True)))

    def save(self, path: str | Path) -> None:
        """Write an ARPA file, which KenLM and others read.

        Raises:
            InputError: when it cannot be written.
        """
        path = Path(path)
        total = sum(len(level.keys) for level in self.levels)
        with writing(path), tqdm(total=total, desc="Writing", unit=" n-grams", unit_scale=True) as progress:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                counts = (f"ngram {k}={len(level.keys)}" for k, level in enumerate(self.levels, start=1))
                file.write("\\data\\\n" + "\n".join(counts) + "\n")
                for level in range(len(self.levels)):
                    self._write_level(file, level, progress)
                file.write("\n\\end\\\n")

    def _write_level(self, file: TextIO, number: int, progress: tqdm) -> None:
        level, is_last = self.levels[number], number + 1 == len(self.levels)
        file.write(f"\n\\{number + 1}-grams:\n")
        for start in range(0, len(level.keys), LINES_AT_ONCE):
            rows = np.arange(start, min(start + LINES_AT_ONCE, len(level.keys)))
            logs, backoffs = log10(level.probabilities[rows]), log10(level.backoffs[rows])
            for log, text, backoff in zip(logs, self.spelled(number, rows), backoffs, strict=True):
                file.write(f"{log:.7g}\t{text}\n" if is_last else f"{log:.7g}\t{text}\t{backoff:.7g}\n")
            progress.update(len(rows))


def log10(values: np.ndarray) -> np.ndarray:
    """The logarithm, at least `NEVER`."""
    return np.log10(np.maximum(values, 10**NEVER))


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Args:
        value (`float`): exp of the mean −ln P over words and ends of sentences, unknown words left out.
        with_unknown (`float`): unknown words included, each as one event.
        num_tokens (`int`): words and ends of sentences.
        num_unknown (`int`): of them, words that are not in the vocabulary.
    """

    value: float
    with_unknown: float
    num_tokens: int
    num_unknown: int


def perplexity(model: NgramModel, corpus: Corpus) -> Perplexity:
    """The perplexity of a text in the model's vocabulary ([`Corpus.in_words`])."""
    logs = model.log_probabilities(corpus)
    predicted = corpus.tokens != BEGINNING
    unknown = corpus.tokens == UNKNOWN
    return Perplexity(
        value=math.exp(-logs[predicted & ~unknown].mean()),
        with_unknown=math.exp(-logs[predicted].mean()),
        num_tokens=int(predicted.sum()),
        num_unknown=int(unknown.sum()),
    )


def is_binary(path: str | Path) -> bool:
    """Whether a language model is KenLM's own format and not ARPA.

    Raises:
        InputError: for a file that does not exist.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no language model {path}; make one with `hf-ssl lm`.")
    with Path(path).open("rb") as file:
        return file.read(len(KENLM_MAGIC)) == KENLM_MAGIC


def read_words(path: str | Path) -> list[str]:
    """The vocabulary of an ARPA file, without the special words.

    Raises:
        InputError: for a file that does not exist or is not ARPA.
    """
    if is_binary(path):
        raise InputError(f"{path} is a binary of KenLM, whose words cannot be listed; give a --lexicon, too.")
    words: list[str] = []
    inside = False
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("\\"):
                if inside:
                    return [word for word in words if word not in SPECIAL_WORDS]
                inside = line.strip() == "\\1-grams:"
            elif inside and line.strip():
                words += line.split()[1:2]
    raise InputError(f"{path} is no ARPA file: it has no section of 1-grams; make one with `hf-ssl lm`.")

"""Decoding without a language model: the most probable token of each frame."""

# T frames, V tokens

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hf_ssl.evaluation.recognition.hypothesis import Hypothesis
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary

IMPOSSIBLE = -1e4
"""ln P of what cannot be; finite, so that sums and differences of scores stay numbers."""


@dataclass(frozen=True)
class GreedyDecoder:
    """The best alignment: the most probable token of each frame, then repetitions and blanks dropped (Graves 2006).

    Args:
        vocabulary ([`CTCVocabulary`]): of the model; its silent tokens are never chosen.
    """

    vocabulary: CTCVocabulary

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """One hypothesis; see [`Decoder.decode`]."""
        log_probs = without_silent(log_probs, self.vocabulary)
        path = log_probs.argmax(axis=1)
        score = float(log_probs.max(axis=1).sum(dtype=np.float64))
        tokens = collapsed(path.tolist(), self.vocabulary)
        return [
            Hypothesis(
                text=self.vocabulary.text(tokens),
                score=score,
                acoustic=score,
                num_tokens=num_spoken(tokens, self.vocabulary),
                num_frames=len(log_probs),
            )
        ]


def without_silent(log_probs: np.ndarray, vocabulary: CTCVocabulary) -> np.ndarray:
    """The same ln P (T, V), float32, but `IMPOSSIBLE` of the tokens that no transcript holds, and nowhere less."""
    spoken = np.maximum(log_probs, IMPOSSIBLE, dtype=np.float32)
    spoken[:, sorted(vocabulary.silent)] = IMPOSSIBLE
    return spoken


def collapsed(path: Sequence[int], vocabulary: CTCVocabulary) -> list[int]:
    """What an alignment says: its tokens without repetitions, then without blanks."""
    return [token for token, _ in groupby(path) if token != vocabulary.blank]


def num_spoken(tokens: Sequence[int], vocabulary: CTCVocabulary) -> int:
    """How many tokens are letters or phones and not word boundaries."""
    return sum(token != vocabulary.boundary for token in tokens)

"""What a decoder gives: transcripts with the parts of their scores."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Weights:
    """What the parts of a hypothesis count, beside 1 for the acoustic one.

    All scores are natural logarithms. Published weights of KenLM decoders (fairseq, torchaudio) belong to logarithms
    to base 10: divide theirs by 2.303.

    Args:
        ngram (`float`): of the n-gram model's ln P.
        word (`float`): added for every word; makes up for the words' deletion by the language model.
        neural (`float`): of a causal language model's ln P.
    """

    ngram: float = 0.0
    word: float = 0.0
    neural: float = 0.0


@dataclass(frozen=True)
class Beam:
    """How widely a beam search looks.

    Args:
        size (`int`): hypotheses kept at each frame, partial words and last tokens told apart.
        threshold (`float`): nats below the best at which a hypothesis is dropped.
        num_best (`int`): transcripts returned, as far as there are so many.
    """

    size: int = 100
    threshold: float = 50.0
    num_best: int = 1


DEFAULT_WEIGHTS = Weights(ngram=round(2 / math.log(10), 3), word=-1.0)
"""Of an untuned search: fairseq's for HuBERT with KenLM."""
DEFAULT_RESCORING = replace(DEFAULT_WEIGHTS, neural=0.5)
"""Of an untuned order of n-best lists, in which a causal language model stands beside the n-gram model: a guess."""
DEFAULT_BEAM = Beam()


@dataclass(frozen=True)
class Hypothesis:
    """One transcript of a recording.

    Args:
        text (`str`): words, one space apart; may be empty.
        score (`float`): by which the hypotheses of a recording are ordered: the parts, weighted.
        acoustic (`float`): ln P of the transcript under the CTC model: of its best alignment for greedy decoding, else
            summed over the alignments that the beam kept.
        num_tokens (`int`): tokens of the model's vocabulary that it is written with, word boundaries not counted.
        num_frames (`int`): of the recording.
        ngram (`float`): ln P under the n-gram model, end of sentence included; 0 without one.
        neural (`float`): ln P under a causal language model; 0 without one.
    """

    text: str
    score: float
    acoustic: float
    num_tokens: int
    num_frames: int
    ngram: float = 0.0
    neural: float = 0.0

    @property
    def num_words(self) -> int:
        """Words of the text."""
        return len(self.text.split())

    def weighted(self, weights: Weights) -> "Hypothesis":
        """The same transcript, scored with other weights."""
        score = self.acoustic + weights.ngram * self.ngram + weights.neural * self.neural
        return replace(self, score=score + weights.word * self.num_words)


def ranked(hypotheses: Iterable[Hypothesis], weights: Weights) -> list[Hypothesis]:
    """The hypotheses with their scores under these weights, best first; of equal scores the earlier first."""
    return sorted((hypothesis.weighted(weights) for hypothesis in hypotheses), key=lambda h: -h.score)


class Decoder(Protocol):
    """Turns what a CTC model says of a recording into transcripts."""

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The most probable transcripts.

        Args:
            log_probs (`np.ndarray`): (T, V), float32: ln P of each token at each frame.

        Returns:
            `list[Hypothesis]`: at least one, different texts, best first.
        """
        ...

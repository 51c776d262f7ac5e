"""Beam search under an n-gram model, over the words of a lexicon or over letters, by flashlight-text and its KenLM.

The search adds up alignments, so that without pruning a hypothesis has the probability that CTC gives its transcript,
times that of the language model.
"""

# T frames, V tokens

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from flashlight.lib.text.decoder import (
    LM,
    CriterionType,
    DecodeResult,
    LexiconDecoder,
    LexiconDecoderOptions,
    LexiconFreeDecoder,
    LexiconFreeDecoderOptions,
    SmearingMode,
    Trie,
    ZeroLM,
)
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.greedy import IMPOSSIBLE, collapsed, num_spoken, without_silent
from hf_ssl.evaluation.recognition.hypothesis import DEFAULT_BEAM, DEFAULT_WEIGHTS, Beam, Hypothesis, Weights
from hf_ssl.evaluation.recognition.lexicon import Lexicon
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary

LN10 = math.log(10)  # KenLM's logarithms are to base 10
NO_TRANSITIONS: list[float] = []  # of another criterion than CTC


class WordDecoder:
    """Finds words of a lexicon.

    Between words the model has to write its boundary; at the recording's beginning and end it may.

    Args:
        vocabulary ([`CTCVocabulary`]): of the model.
        lexicon ([`Lexicon`]): the words that can be found.
        lm (`str` or `Path`, *optional*): ARPA or KenLM binary file of a model of words. A word of the lexicon that it
            lacks counts as its unknown word.
        weights ([`Weights`]): of n-gram model and words.
        beam ([`Beam`]): of the search.

    Raises:
        InputError: for a model without a token between words, or an unusable language model.
    """

    def __init__(
        self,
        vocabulary: CTCVocabulary,
        lexicon: Lexicon,
        lm: str | Path | None = None,
        weights: Weights = DEFAULT_WEIGHTS,
        beam: Beam = DEFAULT_BEAM,
    ) -> None:
        if vocabulary.boundary is None:
            raise InputError(
                "The model has no token between words, so they cannot be told apart; decode its letters or phones "
                "(--decoder letters)."
            )
        self.vocabulary = vocabulary
        self.words = list(lexicon.spellings)
        self.lm = load_lm(lm, self.words)
        self.trie = Trie(len(vocabulary.tokens), vocabulary.blank)
        start = self.lm.start(False)
        for number, spellings in enumerate(lexicon.spellings.values()):
            _, alone = self.lm.score(start, number)
            for spelling in spellings:
                self.trie.insert([*spelling, vocabulary.boundary], number, alone)
        self.trie.smear(SmearingMode.MAX)  # a partial word is scored as its most frequent continuation
        self.set(weights, beam)

    def set(self, weights: Weights, beam: Beam) -> None:
        """Search with other weights or another beam; words and language model stay."""
        self.weights, self.beam = weights, beam
        options = LexiconDecoderOptions(
            beam_size=beam.size,
            beam_size_token=len(self.vocabulary.tokens),
            beam_threshold=beam.threshold,
            lm_weight=weights.ngram * LN10,
            word_score=weights.word,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=CriterionType.CTC,
        )
        self.search = LexiconDecoder(
            options, self.trie, self.lm, self.vocabulary.boundary, self.vocabulary.blank, -1, NO_TRANSITIONS, False
        )

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Transcripts of words of the lexicon; see [`Decoder.decode`]."""
        # Words end with the boundary in the search; a last frame that can be nothing else ends the last one.
        end = np.full((1, len(self.vocabulary.tokens)), IMPOSSIBLE, dtype=np.float32)
        end[0, self.vocabulary.boundary] = 0.0
        frames = np.concatenate([without_silent(log_probs, self.vocabulary), end])
        hypotheses = []
        for result in self.search.decode(frames.ctypes.data, *frames.shape):
            text = self.vocabulary.transcript(" ".join(self.words[word] for word in result.words if word >= 0))
            hypotheses.append(as_hypothesis(result, text, len(log_probs), self.vocabulary, self.weights))
        return best_of(hypotheses, self.beam.num_best)


class LetterDecoder:
    """Finds any sequence of the model's tokens, words that nobody has seen before among them.

    The search knows no words: their weight only orders what it found.

    Args:
        vocabulary ([`CTCVocabulary`]): of the model.
        lm (`str` or `Path`, *optional*): ARPA or KenLM binary file of a model of the same letters or phones
            (`hf-ssl lm --unit letters`).
        weights ([`Weights`]): of n-gram model and words.
        beam ([`Beam`]): of the search.

    Raises:
        InputError: for an unusable language model.
    """

    def __init__(
        self,
        vocabulary: CTCVocabulary,
        lm: str | Path | None = None,
        weights: Weights = DEFAULT_WEIGHTS,
        beam: Beam = DEFAULT_BEAM,
    ) -> None:
        self.vocabulary = vocabulary
        written = [token.lower() if vocabulary.upper_case else token for token in vocabulary.tokens]
        # A token's number is its place in the list; blank and silent tokens are never looked up in it.
        apart = {vocabulary.blank, *vocabulary.silent}
        self.lm = load_lm(lm, [f"<{number}>" if number in apart else token for number, token in enumerate(written)])
        self.set(weights, beam)

    def set(self, weights: Weights, beam: Beam) -> None:
        """Search with other weights or another beam; the language model stays."""
        self.weights, self.beam = weights, beam
        options = LexiconFreeDecoderOptions(
            beam_size=beam.size,
            beam_size_token=len(self.vocabulary.tokens),
            beam_threshold=beam.threshold,
            lm_weight=weights.ngram * LN10,
            sil_score=0.0,
            log_add=True,
            criterion_type=CriterionType.CTC,
        )
        between = self.vocabulary.blank if self.vocabulary.boundary is None else self.vocabulary.boundary
        self.search = LexiconFreeDecoder(options, self.lm, between, self.vocabulary.blank, NO_TRANSITIONS)

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Transcripts of any tokens; see [`Decoder.decode`]."""
        frames = without_silent(log_probs, self.vocabulary)
        hypotheses = []
        for result in self.search.decode(frames.ctypes.data, *frames.shape):
            text = self.vocabulary.text(spoken_by(result, len(frames), self.vocabulary))
            hypotheses.append(as_hypothesis(result, text, len(frames), self.vocabulary, self.weights))
        return best_of(hypotheses, self.beam.num_best)


def load_lm(path: str | Path | None, entries: Sequence[str]) -> LM:
    """The n-gram model of a file, which knows the entries by their place; without a file, one without opinions.

    Raises:
        InputError: for a file that KenLM cannot read.
    """
    if path is None:
        return ZeroLM()
    try:
        return KenLM(str(path), Dictionary(list(entries)))
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 1)[-1].split()) or str(error)
        raise InputError(
            f"The language model {path} cannot be read by KenLM ({reason}); make one with `hf-ssl lm`."
        ) from error


def spoken_by(result: DecodeResult, num_frames: int, vocabulary: CTCVocabulary) -> list[int]:
    """The tokens of a result; its path begins with a state before the first frame and ends after the last."""
    return collapsed(result.tokens[1 : num_frames + 1], vocabulary)


def as_hypothesis(
    result: DecodeResult, text: str, num_frames: int, vocabulary: CTCVocabulary, weights: Weights
) -> Hypothesis:
    """A result with the parts of its score."""
    ngram = result.lmScore * LN10
    words = weights.word * sum(word >= 0 for word in result.words)
    hypothesis = Hypothesis(
        text=text,
        score=result.score,
        acoustic=result.score - weights.ngram * ngram - words,
        num_tokens=num_spoken(spoken_by(result, num_frames, vocabulary), vocabulary),
        num_frames=num_frames,
        ngram=ngram,
    )
    return hypothesis.weighted(weights)


def best_of(hypotheses: Iterable[Hypothesis], number: int) -> list[Hypothesis]:
    """The best hypotheses of different texts."""
    by_text: dict[str, Hypothesis] = {}
    for hypothesis in sorted(hypotheses, key=lambda h: -h.score):
        by_text.setdefault(hypothesis.text, hypothesis)
    return list(by_text.values())[:number]

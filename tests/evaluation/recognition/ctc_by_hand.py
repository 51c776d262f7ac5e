"""CTC decoding by definition: all alignments, and a plain prefix beam search, in Python alone."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.evaluation.recognition.corpus import BEGINNING, END, UNKNOWN, Corpus
from hf_ssl.evaluation.recognition.kneser_ney import estimate
from hf_ssl.evaluation.recognition.ngram import NgramModel
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary

Tokens = tuple[int, ...]
LanguageModel = Callable[[Sequence[str]], float]


def letters(text: str) -> tuple[PreTrainedTokenizerBase, CTCVocabulary]:
    """A tokenizer and a vocabulary of the letters of a text: blank 0, unknown 1, boundary 2, letters from 3."""
    tokenizer = TranscriptForm().tokenizer([text])
    return tokenizer, CTCVocabulary.of(tokenizer, len(tokenizer))


def random_log_probs(seed: int, num_frames: int, num_tokens: int) -> np.ndarray:
    """(T, V), float32: no token is hopeless."""
    logits = np.random.default_rng(seed).normal(size=(num_frames, num_tokens))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def peaked_log_probs(tokens: Sequence[int], num_tokens: int, margin: float, seed: int = 0) -> np.ndarray:
    """(T, V), float32, of which each token of a path is the most probable by about `margin` nats."""
    logits = np.random.default_rng(seed).normal(size=(len(tokens), num_tokens))
    logits[np.arange(len(tokens)), tokens] += margin
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def language_model(sentences: Sequence[str], order: int, unit: str = "words") -> tuple[NgramModel, LanguageModel]:
    """An n-gram model, and ln P of a sequence of its units with the end of the sentence."""
    model = estimate(Corpus.of(sentences, unit), order)

    def log_probability(units: Sequence[str]) -> float:
        known = [model.words.index(found) if found in model.words else UNKNOWN for found in units]
        tokens = np.array([BEGINNING, *known, END], dtype=np.int32)
        return float(model.log_probabilities(Corpus(tokens, model.words)).sum())

    return model, log_probability


def all_paths(log_probs: np.ndarray, silent: frozenset[int]) -> Iterator[tuple[Tokens, float]]:
    """Every alignment without silent tokens, with its ln P."""
    spoken = [token for token in range(log_probs.shape[1]) if token not in silent]
    for path in itertools.product(spoken, repeat=len(log_probs)):
        yield path, float(sum(log_probs[t, token] for t, token in enumerate(path)))


def sums(log_probs: np.ndarray, vocabulary: CTCVocabulary) -> dict[Tokens, float]:
    """Ln P of every sequence of tokens, over all its alignments. A boundary before the first token is no token."""
    total: dict[Tokens, float] = defaultdict(lambda: -math.inf)
    start = -1 if vocabulary.boundary is None else vocabulary.boundary
    for path, score in all_paths(log_probs, vocabulary.silent):
        tokens = tuple(token for token, _ in itertools.groupby((start, *path)) if token != vocabulary.blank)
        total[tokens[1:]] = np.logaddexp(total[tokens[1:]], score)
    return dict(total)


def prefix_beam_search(
    log_probs: np.ndarray, vocabulary: CTCVocabulary, lm: LanguageModel, weight: float
) -> dict[Tokens, float]:
    """Prefix beam search (Hannun et al. 2014) that drops no prefix: of each, ln P, the weighted language model's too.

    For every prefix it keeps the probability of alignments that end with a blank, and of those that do not.
    """
    beam: dict[Tokens, tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probs.astype(np.float64):
        grown: dict[Tokens, list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for prefix, (blank, spoken) in beam.items():
            either = np.logaddexp(blank, spoken)
            grown[prefix][0] = np.logaddexp(grown[prefix][0], either + frame[vocabulary.blank])
            for token in vocabulary.numbers.values():
                longer = (*prefix, token)
                if prefix and token == prefix[-1]:
                    grown[prefix][1] = np.logaddexp(grown[prefix][1], spoken + frame[token])
                    grown[longer][1] = np.logaddexp(grown[longer][1], blank + frame[token])
                else:
                    grown[longer][1] = np.logaddexp(grown[longer][1], either + frame[token])
        beam = {prefix: (blank, spoken) for prefix, (blank, spoken) in grown.items()}
    return {
        prefix: float(np.logaddexp(*ends)) + weight * lm([vocabulary.tokens[token] for token in prefix])
        for prefix, ends in beam.items()
    }

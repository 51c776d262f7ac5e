"""Modified interpolated Kneser-Ney smoothing (Chen & Goodman 1999, Section 3).

All n-grams of one order are a column of numbers, so that counting is a sort and estimation is arithmetic on whole
columns.
"""

# N order of the model, k order of an n-gram, V words of the vocabulary, n_k distinct k-grams of the text

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tqdm.auto import tqdm

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.corpus import BEGINNING, Corpus
from hf_ssl.evaluation.recognition.ngram import Level, NgramModel

logger = logging.getLogger(__name__)

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Of counts 1, 2 and more, for an order whose counts of counts give none; KenLM's choice."""


@dataclass
class Grams:
    """The distinct n-grams of one order k of a text, in the order of their keys.

    Args:
        keys (`np.ndarray`): (n_k,), int64; see [`Level`].
        histories (`np.ndarray`): (n_k,), int64: the first k − 1 words, among the (k−1)-grams; 0 for k = 1.
        suffixes (`np.ndarray`): (n_k,), int64: the last k − 1 words, among the (k−1)-grams; 0 for k = 1.
        occurrences (`np.ndarray`): (n_k,), int64: in the text.
        are_initial (`np.ndarray`): (n_k,), bool: the first word is the beginning of a sentence.
        counts (`np.ndarray`): (n_k,), int64: what Kneser-Ney estimates from. For k = N the occurrences; for k < N the
            number of different words before the n-gram, or its occurrences where a sentence begins with it.
    """

    keys: np.ndarray
    histories: np.ndarray
    suffixes: np.ndarray
    occurrences: np.ndarray
    are_initial: np.ndarray
    counts: np.ndarray


def estimate(corpus: Corpus, order: int, prune: Sequence[int] = ()) -> NgramModel:
    """Estimate an n-gram model, with the formulas of KenLM's `lmplz`.

    With c the counts of [`Grams`] and D the discount of a count:

        P(w | h) = (c(hw) − D(c(hw))) / Σ_v c(hv) + γ(h) · P(w | h without its first word)

    where γ(h) is the share of Σ_v c(hv) that was discounted or pruned, so that the sum over w is one. The shortest
    history's distribution is mixed with the uniform one over V − 1 words: the beginning of a sentence is never
    predicted, and the unknown word has its probability from there.

    Args:
        corpus ([`Corpus`]): the text.
        order (`int`): N, at least 1.
        prune (`Sequence[int]`): for each order, up to how many occurrences its n-grams are left out: 0 for words, then
            non-decreasing; the last number holds for all longer n-grams. Empty: none is left out.

    Raises:
        InputError: for thresholds that would leave an n-gram without its history, or an order without n-grams.
    """
    grams = count_ngrams(corpus, order)
    kept = _kept(grams, prune)
    lower = np.full(1, 1 / (len(corpus.words) - 1))  # P of the order below, by n-gram
    levels: list[Level] = []
    for k, (gram, is_kept) in enumerate(zip(grams, kept, strict=True), start=1):
        discounts = discounts_of(gram.counts, k)[np.minimum(gram.counts, 3)]
        explained = np.where(is_kept, gram.counts - discounts, 0.0)
        totals = np.bincount(gram.histories, gram.counts, minlength=len(lower))  # Σ_v c(hv), by history
        left = np.bincount(gram.histories, gram.counts - explained, minlength=len(lower))
        backoffs = np.divide(left, totals, out=np.ones(len(lower)), where=totals > 0)
        lower = explained / totals[gram.histories] + backoffs[gram.histories] * lower[gram.suffixes]
        if k == 1:
            lower[BEGINNING] = 0.0
        else:
            levels[-1].backoffs = backoffs
        levels.append(Level(gram.keys, lower, np.ones(len(lower))))
    return NgramModel(corpus.words, _without_pruned(levels, kept, len(corpus.words)))


def count_ngrams(corpus: Corpus, order: int) -> list[Grams]:
    """The n-grams of the orders 1 to `order` that stand within sentences, their boundaries included."""
    tokens, positions, num_words = corpus.tokens.astype(np.int64), corpus.positions, len(corpus.words)
    # Every word of the vocabulary is a unigram, whether or not it occurs: <unk> does not.
    nothing = np.zeros(num_words, dtype=np.int64)
    occurrences = np.bincount(tokens, minlength=num_words)
    are_initial = np.arange(num_words) == BEGINNING
    grams = [Grams(np.arange(num_words), nothing, nothing, occurrences, are_initial, occurrences)]
    ending = tokens  # the number of the k-gram that ends at each position
    for k in tqdm(range(2, order + 1), desc="Counting", unit=" orders"):
        (ends,) = np.nonzero(positions >= k - 1)
        keys, first, numbers, occurrences = np.unique(
            ending[ends - 1] * num_words + tokens[ends], return_index=True, return_inverse=True, return_counts=True
        )
        histories, suffixes = keys // num_words, ending[ends[first]]
        grams.append(Grams(keys, histories, suffixes, occurrences, grams[-1].are_initial[histories], occurrences))
        below = grams[-2]
        below.counts = np.where(below.are_initial, below.occurrences, np.bincount(suffixes, minlength=len(below.keys)))
        ending = np.full(len(tokens), -1)
        ending[ends] = numbers
    grams[0].counts = np.where(are_initial, 0, grams[0].counts)  # the beginning of a sentence is never predicted
    return grams


def discounts_of(counts: np.ndarray, order: int) -> np.ndarray:
    """D of the counts 0, 1, 2 and 3 or more, (4,), from the number of n-grams n_j with count j.

    D(j) = j − (j + 1) · Y · n_{j+1} / n_j with Y = n_1 / (n_1 + 2 n_2), Chen & Goodman's equation 26; the
    [`FALLBACK_DISCOUNTS`] where that is undefined or not in [0, j], as in a text too small or without rare n-grams.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)
    if (n[1:4] > 0).all():
        shared = n[1] / (n[1] + 2 * n[2])
        closed = [j - (j + 1) * shared * n[j + 1] / n[j] for j in (1, 2, 3)]
        if all(0 <= discount <= j for j, discount in enumerate(closed, start=1)):
            return np.array([0.0, *closed])
    logger.warning(
        "The %d-grams are too few, or too few of them rare, to estimate discounts; they are set to %s.",
        order,
        ", ".join(map(str, FALLBACK_DISCOUNTS)),
    )
    return np.array([0.0, *FALLBACK_DISCOUNTS])


def _kept(grams: list[Grams], prune: Sequence[int]) -> list[np.ndarray]:
    """Which n-grams of each order occur more often than its threshold, (n_k,), bool."""
    if len(prune) > len(grams) or any(low > high for low, high in pairwise([0, *prune])) or any(prune[:1]):
        raise InputError(
            f"The pruning thresholds {list(prune)} cannot be used; give at most {len(grams)} (one an order): 0 for "
            "words, then non-decreasing numbers."
        )
    limits = [*prune, *[prune[-1] if prune else 0] * (len(grams) - len(prune))]
    # Words are kept even if they do not occur, as the unknown one.
    kept = [gram.occurrences > (limit or -1) for gram, limit in zip(grams, limits, strict=True)]
    for k, is_kept in enumerate(kept, start=1):
        if not is_kept.any():
            raise InputError(f"The text has no {k}-gram that is kept; lower the order or the pruning thresholds.")
    return kept


def _without_pruned(levels: list[Level], kept: list[np.ndarray], num_words: int) -> list[Level]:
    """The kept n-grams, numbered anew; the history of a kept one is kept, since it occurs as often."""
    smaller = [levels[0]]
    numbers = np.arange(num_words)
    for level, is_kept in zip(levels[1:], kept[1:], strict=True):
        histories, words = np.divmod(level.keys[is_kept], num_words)
        keys = numbers[histories] * num_words + words
        smaller.append(Level(keys, level.probabilities[is_kept], level.backoffs[is_kept]))
        numbers = np.cumsum(is_kept) - 1
    return smaller

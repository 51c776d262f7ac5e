"""Pairs of segments for next-sentence prediction (BERT, appendix A.2)."""

from random import Random
from typing import Any

import numpy as np

from hf_ssl.data.documents import TokenizedDocuments
from hf_ssl.data.sequences import SpecialTokens

IS_NEXT, IS_RANDOM = 0, 1
Span = tuple[int, int, int]
"""Document, first token and the token after the last."""


class SentencePairs:
    """The pairs of a corpus as items.

    Args:
        documents ([`TokenizedDocuments`]): where the tokens are.
        pairs (`np.ndarray` of shape `(pairs, 7)`): document, start and end of the first segment and of the second,
            and the label, as [`pack_pairs`] makes them.
        special ([`SpecialTokens`]): what is put around the segments.
    """

    def __init__(self, documents: TokenizedDocuments, pairs: np.ndarray, special: SpecialTokens) -> None:
        self.documents, self.pairs, self.special = documents, pairs, special

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        *spans, label = self.pairs[index].tolist()
        first, second = self.documents.tokens(*spans[:3]), self.documents.tokens(*spans[3:])
        return {**self.special.join_pair(first, second), "next_sentence_label": label}

    @property
    def lengths(self) -> list[float]:
        """Tokens of each item, special ones included."""
        sizes = self.pairs[:, 2] - self.pairs[:, 1] + self.pairs[:, 5] - self.pairs[:, 4]
        return (sizes + self.special.num_in_pair).astype(float).tolist()


def pack_pairs(
    bounds: list[np.ndarray], *, num_tokens: int, short_sequence_probability: float, random: Random
) -> np.ndarray:
    """Cut documents into pairs of segments.

    Sentences of a document are gathered until they hold the number of tokens aimed at. The first segment takes a
    random number of them; the second one the rest or, half of the time, a run of sentences from a different document.
    The sentences that this leaves unused start the next pair, so none is lost. What is too long together is truncated.

    Args:
        bounds (`list[np.ndarray]`): of each document, the tokens before each sentence and in all of it.
        num_tokens (`int`): the most tokens of both segments together.
        short_sequence_probability (`float`): share of documents whose pairs aim at a random lower number.
        random (`Random`): decides; the same state gives the same pairs.

    Returns:
        `np.ndarray` of shape `(pairs, 7)`, int64: document, first token and token after the last of the first segment,
        the same of the second one, and 0 where this follows the first, 1 where it is random.
    """
    pairs = []
    for document, limits in enumerate(bounds):
        num_sentences = len(limits) - 1
        target = random.randint(2, num_tokens) if random.random() < short_sequence_probability else num_tokens
        start = 0
        while start < num_sentences:
            end = _gather(limits, start, target)
            middle = start + 1 if end == start + 1 else random.randint(start + 1, end - 1)
            first = (document, int(limits[start]), int(limits[middle]))
            if middle == end or random.random() < 0.5:
                label, start = IS_RANDOM, middle
                second = _random_span(bounds, document, target - (first[2] - first[1]), random)
            else:
                label, start = IS_NEXT, end
                second = (document, int(limits[middle]), int(limits[end]))
            pairs.append((*_truncate(first, second, num_tokens, random), label))
    return np.array(pairs, dtype=np.int64).reshape(-1, 7)


def _gather(limits: np.ndarray, start: int, target: int) -> int:
    """Where the shortest run of sentences from `start` ends that holds `target` tokens; at most the document's end."""
    return min(max(int(np.searchsorted(limits, limits[start] + target)), start + 1), len(limits) - 1)


def _random_span(bounds: list[np.ndarray], document: int, target: int, random: Random) -> Span:
    """A run of sentences, from a random one on, in any document but this."""
    other = random.randrange(len(bounds) - 1)
    other += other >= document
    limits = bounds[other]
    start = random.randrange(len(limits) - 1)
    return other, int(limits[start]), int(limits[_gather(limits, start, target)])


def _truncate(first: Span, second: Span, num_tokens: int, random: Random) -> tuple[int, ...]:
    """Take tokens off the longer segment, one by one, at its front or back by chance, until both fit."""
    sizes = first[2] - first[1], second[2] - second[1]
    # Where that ends: the longer one gives way until they are equal, then they do so in turn, the second one first.
    if sizes[0] > sizes[1]:
        kept_second = min(sizes[1], num_tokens // 2)
        kept = min(sizes[0], num_tokens - kept_second), kept_second
    else:
        kept_first = min(sizes[0], (num_tokens + 1) // 2)
        kept = kept_first, min(sizes[1], num_tokens - kept_first)
    spans = []
    for (document, start, _), size, left in zip((first, second), sizes, kept, strict=True):
        front = random.getrandbits(size - left).bit_count()
        spans += [document, start + front, start + front + left]
    return tuple(spans)

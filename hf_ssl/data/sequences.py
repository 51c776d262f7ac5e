"""Segments of text and the special tokens around them, joined to the sequence that an encoder reads."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from transformers import PreTrainedTokenizerFast

from hf_ssl.data.documents import Tokens

TokenSequence = dict[str, np.ndarray]
"""Arrays of shape (T,): `input_ids`, `token_type_ids`, `special_tokens_mask` and `word_starts`."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer's pairs, `prefix A between B suffix`, and the types of the two segments.

    Args:
        prefix (`list[int]`): before the first segment, e.g. `[CLS]`.
        between (`list[int]`): between the segments of a pair, e.g. `[SEP]`.
        suffix (`list[int]`): after the last segment, e.g. `[SEP]`.
        separator (`int`): between documents in a run of full sentences.
        types (`tuple[int, int]`): token type of the first segment and of the second.
    """

    prefix: list[int]
    between: list[int]
    suffix: list[int]
    separator: int
    types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Self:
        """Read them off an encoded pair."""
        encoding = tokenizer("a", "a").encodings[0]
        sides = encoding.sequence_ids
        first, second = sides.index(0), sides.index(1)
        first_end, second_end = first + sides.count(0), second + sides.count(1)
        ids, types = encoding.ids, encoding.type_ids
        return cls(
            prefix=ids[:first],
            between=ids[first_end:second],
            suffix=ids[second_end:],
            separator=tokenizer.sep_token_id,
            types=(types[first], types[second]),
        )

    @property
    def num_in_pair(self) -> int:
        """How many a pair has: 3 for BERT, 4 for RoBERTa."""
        return len(self.prefix) + len(self.between) + len(self.suffix)

    @property
    def num_in_single(self) -> int:
        """How many a sequence of one segment has."""
        return len(self.prefix) + len(self.suffix)

    def join_pair(self, first: Tokens, second: Tokens) -> TokenSequence:
        """`prefix first between second suffix`."""
        pieces = [_special(self.prefix), _segment(first), _special(self.between), _segment(second)]
        of_first, of_second = self.types
        return _join([*pieces, _special(self.suffix)], [of_first, of_first, of_first, of_second, of_second])

    def join_documents(self, parts: list[Tokens]) -> TokenSequence:
        """`prefix part separator part … suffix`, all of the first type."""
        pieces = [_special(self.prefix)]
        for part in parts:
            pieces += [_segment(part), _special([self.separator])]
        pieces[-1] = _special(self.suffix)
        return _join(pieces, [self.types[0]] * len(pieces))


Piece = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids, word starts and which are special."""


def _special(ids: list[int]) -> Piece:
    return np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=bool), np.ones(len(ids), dtype=bool)


def _segment(tokens: Tokens) -> Piece:
    ids, word_starts = tokens
    # A segment cut in the middle of a word starts with what is left of it: a word of its own.
    word_starts = np.concatenate([[True], word_starts[1:]])
    return ids, word_starts, np.zeros(len(ids), dtype=bool)


def _join(pieces: list[Piece], types: list[int]) -> TokenSequence:
    ids, word_starts, special = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return {
        "input_ids": ids,
        "token_type_ids": np.repeat(np.array(types, dtype=np.int32), [len(piece[0]) for piece in pieces]),
        "special_tokens_mask": special,
        "word_starts": word_starts,
    }

"""Documents as sentences of tokens, stored compactly on disk."""

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

Tokens = tuple[np.ndarray, np.ndarray]
"""Token ids and, for each, whether it is the first of a word."""

# A sentence ends at a full stop, question or exclamation mark that a space follows (perhaps after a closing quote or
# bracket), at a full-width one, and at a blank line. Abbreviations end a sentence, too.
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’»)\]])\s+|(?<=[。！？])|\n\s*\n")


def sentences_by_line(text: str) -> list[str]:
    """The lines of a text that hold anything."""
    return [line for line in text.splitlines() if line.strip()]


def sentences_by_punctuation(text: str) -> list[str]:
    """The sentences of running text; line breaks are spaces, blank lines end a paragraph."""
    return [sentence for sentence in SENTENCE_END.split(text) if sentence.strip()]


SENTENCES: dict[str, Callable[[str], list[str]]] = {
    "lines": sentences_by_line,
    "punctuation": sentences_by_punctuation,
}


class TokenizedDocuments:
    """The documents of one split: their tokens stay on disk, memory-mapped, and are read a slice at a time.

    Args:
        rows (`Dataset`): one document a row: `input_ids`, `word_starts` and `sentence_lengths`, with no document
            empty.
    """

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def sentence_bounds(self) -> Iterator[np.ndarray]:
        """For each document, the tokens before each sentence and, last, in all of it: shape (sentences + 1,)."""
        for lengths in self.rows.data.column("sentence_lengths"):
            yield np.concatenate([[0], lengths.values.to_numpy().cumsum(dtype=np.int64)])

    def tokens(self, document: int, start: int, end: int) -> Tokens:
        """The tokens `start` to `end` of a document."""
        columns = (self.rows.data.column(name)[document].values for name in ("input_ids", "word_starts"))
        ids, word_starts = (column.slice(start, end - start).to_numpy(zero_copy_only=False) for column in columns)
        return ids, word_starts


def tokenize_documents(
    dataset: Dataset, tokenizer: PreTrainedTokenizerFast, *, sentences: str, num_proc: int
) -> TokenizedDocuments:
    """Cut texts into sentences and these into tokens.

    Args:
        dataset (`Dataset`): one document a row, in the column `text`.
        tokenizer (`PreTrainedTokenizerFast`): gives the tokens, without special ones.
        sentences (`str`): a name of `SENTENCES`.
        num_proc (`int`): processes that share the work.

    Returns:
        [`TokenizedDocuments`]: the documents in their order, without those that hold no token.
    """
    split = SENTENCES[sentences]

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        documents = [split(text) for text in batch["text"]]
        tokenized = iter(_tokenize(list(chain.from_iterable(documents)), tokenizer))
        joined = [_join(list(islice(tokenized, len(document)))) for document in documents]
        rows = [row for row in joined if row[0].size]
        names = ("input_ids", "word_starts", "sentence_lengths")
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}

    features = {"input_ids": List(Value("int32")), "word_starts": List(Value("bool"))}
    rows = dataset.map(
        tokenize,
        batched=True,
        remove_columns=dataset.column_names,
        features=Features({**features, "sentence_lengths": List(Value("int32"))}),
        num_proc=num_proc if num_proc > 1 else None,
        desc="Tokenizing",
    )
    return TokenizedDocuments(rows)


def _tokenize(sentences: list[str], tokenizer: PreTrainedTokenizerFast) -> list[Tokens]:
    if not sentences:
        return []
    encoded = tokenizer(sentences, add_special_tokens=False, return_attention_mask=False, verbose=False)
    words = (np.array(encoding.word_ids, dtype=float) for encoding in encoded.encodings)
    return [
        (np.array(ids, dtype=np.int32), np.diff(numbers, prepend=-1.0) != 0)
        for ids, numbers in zip(encoded["input_ids"], words, strict=True)
    ]


def _join(sentences: list[Tokens]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, word starts and sentence lengths of one document; sentences without a token are left out."""
    lengths = np.array([len(ids) for ids, _ in sentences], dtype=np.int32)
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *(ids for ids, _ in sentences)])
    starts = np.concatenate([np.zeros(0, dtype=bool), *(starts for _, starts in sentences)])
    return ids, starts, lengths[lengths > 0]

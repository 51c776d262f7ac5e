"""Texts with a class for each word, as token classification has them."""

from dataclasses import dataclass
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, List
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED


def encode_word_labels(splits: DatasetDict, column: str) -> DatasetDict:
    """Makes `column`, lists of classes, a list of `ClassLabel` named `label`.

    The classes are those of the feature, if it has them already, else the sorted values of the training split.

    Args:
        splits (`DatasetDict`): with a split `train`.
        column (`str`): lists of strings, integers or classes, one a word.

    Raises:
        InputError: when a row has no list, or another split a value that the training split lacks.
    """
    inner = splits["train"].features[column].feature
    if isinstance(inner, ClassLabel):
        return splits if column == "label" else splits.rename_column(column, "label")
    known = {
        value: i
        for i, value in enumerate(sorted({v for row in splits["train"][column] for v in row or () if v is not None}))
    }
    feature = List(ClassLabel(names=[str(value) for value in known]))
    return DatasetDict({name: _encode(split, column, known, feature, name) for name, split in splits.items()})


def _encode(split: Dataset, column: str, known: dict[Any, int], feature: List, split_name: str) -> Dataset:
    rows = list(split[column])
    for row, values in enumerate(rows):
        unknown = [value for value in values or (None,) if value not in known]
        if unknown:
            raise InputError(
                f"Row {row} of split {split_name} has {unknown[0]!r} in column {column!r}, which the training split "
                f"lacks; correct it, or do without the split (data.{split_name}_split=null)."
            )
    encoded = [[known[value] for value in values] for values in rows]
    return split.remove_columns(column).add_column("label", encoded, feature=feature)


@dataclass(kw_only=True)
class WordLabelCollator:
    """Tokenizes texts that are given as words and puts each word's class at its first token.

    The word's other tokens and the special ones have no class (Devlin et al. 2018, arXiv:1810.04805, section 5.3).

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the encoder's; one that knows which word a token comes from.
        max_length (`int`, *optional*): longer texts keep only their first so many tokens, special ones included; the
            words cut off are neither learned nor scored. By default the tokenizer's own limit.

    Called with a list of rows with the columns `text` (list of words) and `label` (list of classes, one a word), gives
    `input_ids`, `attention_mask` … and `labels`, all (B, T) int64.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:  # noqa: D102 - described by the class
        words = [example["text"] for example in examples]
        batch = self.tokenizer(
            words,
            is_split_into_words=True,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        labels = [_at_first_tokens(batch.word_ids(row), example["label"]) for row, example in enumerate(examples)]
        return {**batch, "labels": torch.tensor(labels)}


def _at_first_tokens(word_ids: list[int | None], classes: list[int]) -> list[int]:
    """The class of each token: its word's where it is the first of that word, else none."""
    previous = [None, *word_ids[:-1]]
    return [
        IGNORED if word is None or word == before else classes[word]
        for word, before in zip(word_ids, previous, strict=True)
    ]

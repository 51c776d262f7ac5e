"""A column of classes, whatever it was, as a `ClassLabel` that is the same in every split."""

from collections.abc import Iterable
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, IterableDatasetDict, List, Value

from hf_ssl.data.word_labels import encode_word_labels
from hf_ssl.errors import InputError


def encode_labels(splits: DatasetDict, column: str) -> DatasetDict:
    """Makes `column` a `ClassLabel` named `label`.

    The classes are those of the feature, if it is one already, else the sorted values of the training split. For a
    column of lists of classes, one a word, see [`encode_word_labels`].

    Args:
        splits (`DatasetDict`): with a split `train`.
        column (`str`): strings, integers or classes.

    Raises:
        InputError: when a row has no class, or another split a value that the training split lacks.
    """
    feature = splits["train"].features[column]
    if isinstance(feature, List):
        return encode_word_labels(splits, column)
    if isinstance(feature, ClassLabel):
        names = feature.names
        known = {index: index for index in range(len(names))}
    elif isinstance(feature, Value) and feature.dtype.startswith(("string", "large_string", "int", "uint", "bool")):
        _check_present(splits["train"][column], "train", column)
        values = sorted(set(splits["train"][column]))
        names = [str(value) for value in values]
        known = {value: index for index, value in enumerate(values)}
    else:
        raise InputError(f"Column {column!r} ({feature}) cannot be a class; give a column of strings or integers.")
    return DatasetDict({name: _encode(split, column, known, names, name) for name, split in splits.items()})


def rename_stream_labels(splits: IterableDatasetDict, column: str) -> IterableDatasetDict:
    """The same for streams, whose values are not known beforehand: the column has to be a `ClassLabel` already."""
    features = splits["train"].features
    if features is None or not isinstance(features[column], ClassLabel):
        raise InputError(
            f"Column {column!r} is no ClassLabel, and a stream must know its classes; set data.streaming=false."
        )
    return splits if column == "label" else splits.rename_column(column, "label")


def _encode(split: Dataset, column: str, known: dict[Any, int], names: list[str], split_name: str) -> Dataset:
    values = list(split[column])
    _check_present(values, split_name, column)
    for row, value in enumerate(values):
        if value not in known:
            raise InputError(
                f"Row {row} of split {split_name} has {value!r} in column {column!r}, which the training split lacks; "
                f"correct it, or do without the split (data.{split_name}_split=null)."
            )
    stale = [name for name in dict.fromkeys((column, "label")) if name in split.column_names]
    split = split.add_column("encoded label", [known[value] for value in values], feature=ClassLabel(names=names))
    return split.remove_columns(stale).rename_column("encoded label", "label")


def _check_present(values: Iterable[Any], split_name: str, column: str) -> None:
    for row, value in enumerate(values):
        if value is None:
            raise InputError(
                f"Row {row} of split {split_name} has no value in column {column!r}; add it or remove the row."
            )

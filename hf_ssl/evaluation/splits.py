"""Labelled data to fit on, to choose on and to measure on."""

import logging

from datasets import ClassLabel, Dataset, DatasetDict

from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.holdout import held_out
from hf_ssl.data.loading import load_splits
from hf_ssl.data.low_shot import low_shot
from hf_ssl.data.usable import usable
from hf_ssl.errors import InputError

logger = logging.getLogger(__name__)


def labelled_splits(data: DataArguments, modality: str) -> DatasetDict:
    """The splits `train`, `validation` and `test`, with a class for every item.

    A split that the data lacks is held out of the training items: about a tenth, chosen by the hash of the row's
    number, hence always the same.

    Args:
        data ([`DataArguments`]): with a `label_column`.
        modality (`str`): `"vision"`, `"speech"` or `"text"`.

    Returns:
        `DatasetDict`: with the modality's column, undecoded, and `label`, a `ClassLabel`.

    Raises:
        InputError: when no label is named, the label is no class, or too few items or classes are left.
    """
    if data.label_column is None:
        raise InputError("An evaluation predicts a label; name its column with data.label_column (--label).")
    if data.streaming:
        raise InputError("An evaluation reads its data more than once; set data.streaming=false.")
    splits = dict(load_splits(data, modality))
    for name in ("validation", "test"):
        if name not in splits:
            splits["train"], splits[name] = _hold_out(splits["train"], name)
    splits = usable(splits, modality, data)
    for name in ("train", "validation", "test"):
        if name not in splits:
            raise InputError(f"{data.path} leaves no item for the split {name}; give more data.")
    _check(splits["train"], data)
    splits["train"] = low_shot(splits["train"], data)
    return DatasetDict(splits)


def _hold_out(train: Dataset, name: str) -> tuple[Dataset, Dataset]:
    out = held_out([f"{name} {row}" for row in range(len(train))])
    logger.info("No %s split: %d of %d training items are held out.", name, sum(out), len(out))
    kept = train.select([row for row, is_out in enumerate(out) if not is_out])
    return kept, train.select([row for row, is_out in enumerate(out) if is_out])


def _check(train: Dataset, data: DataArguments) -> None:
    feature = train.features["label"]
    if not isinstance(feature, ClassLabel):
        raise InputError(f"Column {data.label_column!r} of {data.path} holds {feature}; give one class an item.")
    if len(set(train["label"])) < 2:
        raise InputError(
            f"All training items of {data.path} have one class in {data.label_column!r}; give another label."
        )

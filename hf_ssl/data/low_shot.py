"""Low-shot subsets of labelled data: the same share of every class, known by a seed."""

# N items

from collections.abc import Sequence

import numpy as np
from datasets import ClassLabel, Dataset

from hf_ssl.data.arguments import DataArguments
from hf_ssl.errors import InputError


def low_shot_rows(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> list[int]:
    """The rows of a share of the items: of a class of n items max(1, ⌊n · fraction + ½⌋).

    A seed shuffles the items of each class once, and a share takes the first of them: that of 1 % is in that of 10 %
    of the same seed.

    Args:
        labels (`Sequence[int]` or `np.ndarray`): (N,) classes.
        fraction (`float`): in (0, 1].
        seed (`int`): non-negative.

    Returns:
        `list[int]`: in increasing order; all rows for 1.
    """
    classes, rows = np.asarray(labels), []
    for label in np.unique(classes):
        of_class = np.random.default_rng((seed, int(label))).permutation(np.flatnonzero(classes == label))
        rows.append(of_class[: max(1, int(len(of_class) * fraction + 0.5))])
    return np.sort(np.concatenate(rows)).tolist()


def low_shot(train: Dataset, data: DataArguments) -> Dataset:
    """The training items whose classes are known, by `data.train_fraction`; all where there is none.

    Args:
        train (`Dataset`): with a column `label`.
        data ([`DataArguments`]): the `data` section.

    Raises:
        InputError: for items that have no class of their own: words, transcripts.
    """
    if data.train_fraction is None:
        return train
    if not isinstance(train.features.get("label"), ClassLabel):
        raise InputError(
            f"data.train_fraction={data.train_fraction} takes its share of each class, and the items of {data.path} "
            "have none of their own; use data.max_train_items."
        )
    return train.select(low_shot_rows(train["label"], data.train_fraction, data.train_fraction_seed))

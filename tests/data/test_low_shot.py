"""Low-shot subsets: the same share of every class, and the same one for the same seed."""

from collections import Counter

import numpy as np
import pytest

from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.low_shot import low_shot, low_shot_rows
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError

LABELS = np.random.default_rng(0).permutation([0] * 500 + [1] * 120 + [2] * 30 + [3] * 3).tolist()


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.01, {0: 5, 1: 1, 2: 1, 3: 1}),  # of 120 · .01 = 1.2 one, and no class is without an item
        (0.1, {0: 50, 1: 12, 2: 3, 3: 1}),
        (1.0, {0: 500, 1: 120, 2: 30, 3: 3}),
    ],
)
def test_every_class_has_its_share(fraction, expected):
    rows = low_shot_rows(LABELS, fraction, seed=0)
    assert Counter(LABELS[row] for row in rows) == expected
    assert rows == sorted(set(rows))


def test_the_same_subset_for_the_same_seed_and_another_for_another():
    assert low_shot_rows(LABELS, 0.1, 0) == low_shot_rows(LABELS, 0.1, 0)
    assert low_shot_rows(LABELS, 0.1, 0) != low_shot_rows(LABELS, 0.1, 1)
    assert set(low_shot_rows(LABELS, 0.01, 1)) < set(low_shot_rows(LABELS, 0.1, 1))


def test_every_item_is_equally_likely():
    drawn = Counter(row for seed in range(300) for row in low_shot_rows([0] * 20, 0.25, seed))
    assert set(drawn) == set(range(20))
    assert all(abs(times - 75) < 40 for times in drawn.values())


def test_of_a_data_set():
    data = ImageDataArguments(path="sample:emoji", label_column="category", train_fraction=0.01, train_fraction_seed=3)
    train = load_splits(data, "vision")["train"]
    subset = low_shot(train, data)
    assert subset["label"] == [train["label"][row] for row in low_shot_rows(train["label"], 0.01, 3)]
    assert set(subset["label"]) == set(train["label"])
    assert low_shot(train, ImageDataArguments(path="x")) is train


def test_items_without_a_class_of_their_own():
    data = SpeechDataArguments(path="sample:speech", train_fraction=0.1)
    train = load_splits(data, "speech")["train"]
    with pytest.raises(InputError, match=r"train_fraction=0\.1 takes its share of each class.*max_train_items"):
        low_shot(train, data)


@pytest.mark.parametrize("settings", [{"train_fraction": 0.0}, {"train_fraction": 1.2}, {"train_fraction": -0.1}])
def test_a_share_that_cannot_be(settings):
    with pytest.raises(InputError, match=r"data.train_fraction is .* in \(0, 1\]"):
        TextDataArguments(path="x", **settings)


@pytest.mark.parametrize("settings", [{"train_fraction": 0.1}, {"mixup": 0.8}, {"labelled_augmentation": "crop_flip"}])
def test_pretraining_has_no_use_for_settings_of_labels(settings):
    with pytest.raises(InputError, match=f"data.{next(iter(settings))} is for fine-tuning"):
        load_usable(ImageDataArguments(path="sample:emoji", **settings), "vision", 0)

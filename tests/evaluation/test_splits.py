import json

import pytest

from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.errors import InputError
from hf_ssl.evaluation.splits import labelled_splits


def table(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def rows(number, label=lambda index: "odd" if index % 2 else "even"):
    return [{"text": f"word {index}", "kind": label(index)} for index in range(number)]


def test_splits_that_are_missing_are_held_out_and_always_the_same(tmp_path):
    data = TextDataArguments(path=table(tmp_path / "all.jsonl", rows(200)), label_column="kind")
    splits, again = labelled_splits(data, "text"), labelled_splits(data, "text")
    texts = {name: set(split["text"]) for name, split in splits.items()}
    assert texts == {name: set(split["text"]) for name, split in again.items()}
    assert sum(len(split) for split in splits.values()) == 200
    assert set.union(*texts.values()) == {f"word {index}" for index in range(200)}
    assert all(8 <= len(texts[name]) <= 32 for name in ("validation", "test"))
    assert splits["test"].features["label"].names == ["even", "odd"]


def test_given_splits_are_taken(tmp_path):
    for name, number in {"train": 6, "validation": 4, "test": 2}.items():
        table(tmp_path / f"{name}.jsonl", rows(number))
    splits = labelled_splits(TextDataArguments(path=str(tmp_path), label_column="kind"), "text")
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 4, "test": 2}


def test_broken_items_are_left_out_if_asked(tmp_path):
    broken = [*rows(60), {"text": "  ", "kind": "odd"}]
    data = TextDataArguments(path=table(tmp_path / "all.jsonl", broken), label_column="kind", on_error="skip")
    assert sum(len(split) for split in labelled_splits(data, "text").values()) == 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "name its column"),
        ({"label_column": "knid"}, "did you mean 'kind'"),
        ({"label_column": "kind", "streaming": True}, "streaming=false"),
    ],
)
def test_data_that_cannot_be_evaluated_on(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        labelled_splits(TextDataArguments(path=table(tmp_path / "all.jsonl", rows(40)), **settings), "text")


def test_a_label_that_is_the_same_for_all(tmp_path):
    path = table(tmp_path / "all.jsonl", rows(40, label=lambda index: "same"))
    with pytest.raises(InputError, match="have one class"):
        labelled_splits(TextDataArguments(path=path, label_column="kind"), "text")


def test_too_few_items_for_three_splits(tmp_path):
    path = table(tmp_path / "all.jsonl", rows(2))
    with pytest.raises(InputError, match="leaves no item for the split"):
        labelled_splits(TextDataArguments(path=path, label_column="kind"), "text")

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDatasetDict, List, Value

from hf_ssl.data.labels import encode_labels, rename_stream_labels
from hf_ssl.errors import InputError


def splits(feature=None, **columns):
    features = Features({"kind": feature}) if feature else None
    return DatasetDict(
        {name: Dataset.from_dict({"kind": values}, features=features) for name, values in columns.items()}
    )


def test_strings_become_the_sorted_classes_of_the_training_split():
    encoded = encode_labels(splits(train=["sun", "moon", "sun"], validation=["moon"], test=["sun"]), "kind")
    for split in encoded.values():
        assert split.features == {"label": ClassLabel(names=["moon", "sun"])}
    assert encoded["train"]["label"][:] == [1, 0, 1]
    assert encoded["validation"]["label"][:] == [0]


def test_integers_are_numbered_by_value_and_not_by_text():
    encoded = encode_labels(splits(train=[10, 9, 100]), "kind")
    assert encoded["train"].features["label"].names == ["9", "10", "100"]
    assert encoded["train"]["label"][:] == [1, 0, 2]


def test_classes_of_the_data_are_kept():
    feature = ClassLabel(names=["z", "a"])
    encoded = encode_labels(splits(feature, train=[0, 0], test=[1]), "kind")
    assert encoded["test"].features["label"] == feature
    assert encoded["test"]["label"][:] == [1]


def test_another_column_called_label_makes_room():
    data = DatasetDict(train=Dataset.from_dict({"label": ["x", "y"], "kind": ["b", "a"]}))
    encoded = encode_labels(data, "kind")
    assert encoded["train"].column_names == ["label"]
    assert encoded["train"]["label"][:] == [1, 0]


def test_classes_of_tokens_only_change_their_name():
    feature = List(ClassLabel(names=["O", "B-LOC"]))
    encoded = encode_labels(splits(feature, train=[[0, 1], [0]]), "kind")
    assert encoded["train"].features["label"] == feature


def test_unseen_value():
    with pytest.raises(InputError, match=r"Row 1 of split validation has 'mars' in column 'kind', which the training"):
        encode_labels(splits(train=["sun", "moon"], validation=["moon", "mars"]), "kind")


def test_hidden_labels_of_a_test_split():
    with pytest.raises(InputError, match=r"Row 0 of split test has -1 .*data\.test_split=null"):
        encode_labels(splits(ClassLabel(names=["a", "b"]), train=[0, 1], test=[-1]), "kind")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_missing_value(split):
    columns = {"train": ["a", "b"], "validation": ["a", "b"], split: ["a", None]}
    with pytest.raises(InputError, match=f"Row 1 of split {split} has no value in column 'kind'"):
        encode_labels(splits(**columns), "kind")


def test_numbers_with_a_fraction_are_no_classes():
    with pytest.raises(InputError, match="cannot be a class"):
        encode_labels(splits(train=[0.5, 1.5]), "kind")


def test_streams_need_to_know_their_classes():
    def stream(feature):
        data = Dataset.from_dict({"kind": [0, 1]}, features=Features({"kind": feature}))
        return IterableDatasetDict({"train": data.to_iterable_dataset()})

    renamed = rename_stream_labels(stream(ClassLabel(names=["a", "b"])), "kind")
    assert [row["label"] for row in renamed["train"]] == [0, 1]
    with pytest.raises(InputError, match=r"no ClassLabel.*data\.streaming=false"):
        rename_stream_labels(stream(Value("int64")), "kind")

import pytest

from hf_ssl.data.samples.splits import assign_splits, connected_groups


def test_groups_are_connected_through_other_items():
    assert connected_groups([("a",), ("b",), ("a", "c"), ("d",), ("c", "b")]) == [0, 0, 0, 1, 0]


def test_items_without_properties_stand_alone():
    assert connected_groups([(), (), ("a",)]) == [0, 1, 2]


@pytest.mark.parametrize("share", [0.1, 0.15, 0.3])
def test_strata_are_divided_alike(share):
    strata = {f"name{number}": "ab"[number % 2] for number in range(2_000)}
    splits = assign_splits(strata, share)
    for stratum in "ab":
        members = [splits[name] for name in strata if strata[name] == stratum]
        assert members.count("test") == members.count("validation") == round(share * 1_000)


def test_three_names_are_enough_for_three_splits():
    assert sorted(assign_splits({"a": "x", "b": "x", "c": "x"}, 0.1).values()) == ["test", "train", "validation"]
    assert set(assign_splits({"a": "x", "b": "x"}, 0.1).values()) == {"train"}

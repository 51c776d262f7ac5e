"""The report of a clustering: labels spread over frames, counted part by part."""

import pytest
import torch
from datasets import Dataset

from hf_ssl.errors import InputError
from hf_ssl.evaluation.clustering import cluster_purity, contingency, perplexity, pnmi, purity
from hf_ssl.trainers.clustering_report import Tally, label_of_frames, read_reference


def test_labels_are_spread_evenly():
    labels = torch.tensor([5, 6, 7])
    assert label_of_frames(labels, 6).tolist() == [5, 5, 6, 6, 7, 7]
    assert label_of_frames(labels, 4).tolist() == [5, 6, 6, 7]  # the middles lie at 1/8, 3/8, 5/8 and 7/8
    assert label_of_frames(labels, 2).tolist() == [5, 7]
    assert label_of_frames(torch.tensor([4]), 3).tolist() == [4, 4, 4]


def test_labels_of_every_split_have_one_numbering():
    splits = {
        "train": Dataset.from_dict({"phones": [["b", "a"], ["b"]]}),
        "test": Dataset.from_dict({"phones": [["c", "a"]]}),
    }
    reference = read_reference(splits, "phones")
    assert reference.num_labels == 3
    assert [row.tolist() for row in reference.labels["train"]] == [[1, 0], [1]]
    assert [row.tolist() for row in reference.labels["test"]] == [[2, 0]]


def test_one_label_a_recording():
    reference = read_reference({"train": Dataset.from_dict({"speaker": [30, 10, 30]})}, "speaker")
    assert [row.tolist() for row in reference.labels["train"]] == [[1], [0], [1]]


def test_parts_add_up():
    generator = torch.Generator().manual_seed(0)
    reference = read_reference({"train": Dataset.from_dict({"speaker": ["x", "y", "x", "z"]})}, "speaker")
    units = [torch.randint(6, (n,), generator=generator) for n in (30, 20, 25, 40)]
    tally = Tally(7, reference, "train")
    tally.add([2, 0], [units[2], units[0]], 10.0)
    tally.add([1, 3], [units[1], units[3]], 13.0)
    labels = torch.cat([torch.full((len(row),), label) for row, label in zip(units, (0, 1, 0, 2), strict=True)])
    table = contingency(torch.cat(units), labels, 7, 3)
    assert tally.measures() == {
        "num_recordings": 4,
        "num_frames": 115,
        "inertia": 0.2,
        "perplexity": perplexity(table.sum(dim=1)),
        "num_unused": 1,
        "purity": purity(table),
        "cluster_purity": cluster_purity(table),
        "pnmi": pnmi(table),
    }


def test_without_a_reference_only_the_units_are_measured():
    tally = Tally(4, None, "train")
    tally.add([0], [torch.tensor([0, 1, 1, 0])], 2.0)
    assert tally.measures() == {
        "num_recordings": 1,
        "num_frames": 4,
        "inertia": 0.5,
        "perplexity": pytest.approx(2.0),
        "num_unused": 2,
    }


def test_a_recording_without_a_label():
    with pytest.raises(InputError, match=r"Recording 1 of split train has no label in column 'speaker' \(1 such\)"):
        read_reference({"train": Dataset.from_dict({"speaker": ["x", None]})}, "speaker")

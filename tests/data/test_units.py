import json

import numpy as np
import pytest
from datasets import Audio, Dataset

from hf_ssl.data.units import INFO_FILE, UNITS_FILE, load_units, save_units
from hf_ssl.errors import InputError

NUM_UNITS = {"train": [120, 300, 55], "validation": [70]}
PATHS = {"train": ["/corpus/a.wav", "b.wav", None], "validation": ["c.wav"]}
INFO = {"num_clusters": 20, "label_rate": 100, "sampling_rate": 16_000, "feature": "mfcc", "layer": None}


@pytest.fixture
def units():
    random = np.random.default_rng(0)
    return {split: [random.integers(0, 20, n) for n in counts] for split, counts in NUM_UNITS.items()}


@pytest.fixture
def folder(units, tmp_path):
    save_units(tmp_path, units, PATHS, INFO)
    return tmp_path


def make_dataset(paths=("elsewhere/a.wav", "b.wav", None), counts=NUM_UNITS["train"]):
    audio = [{"bytes": b"", "path": path} for path in paths]
    lengths = [count / 100 for count in counts]
    return Dataset.from_dict({"audio": audio, "length": lengths}).cast_column("audio", Audio(decode=False))


def test_units_come_back_as_they_were_saved(folder, units):
    loaded = load_units(folder)
    assert (loaded.num_clusters, loaded.label_rate, loaded.info) == (20, 100, INFO)
    for split, rows in units.items():
        for saved, read in zip(rows, loaded.splits[split]["units"].to_pylist(), strict=True):
            assert saved.tolist() == read


def test_saving_again_replaces(folder):
    save_units(folder, {"train": [np.array([1, 2])]}, {"train": ["z.wav"]}, {**INFO, "num_clusters": 40_000})
    loaded = load_units(folder)
    assert list(loaded.splits) == ["train"]
    assert loaded.splits["train"]["units"].to_pylist() == [[1, 2]]
    assert sorted(path.name for path in folder.iterdir()) == [INFO_FILE, UNITS_FILE]


def test_join_follows_the_rows(folder, units):
    joined = load_units(folder).join(make_dataset(), "train")
    assert [row["units"] for row in joined] == [row.tolist() for row in units["train"]]
    reordered = make_dataset(("b.wav", "a.wav", None), (300, 120, 55)).select([1, 0, 2])
    assert [row["units"] for row in load_units(folder).join(reordered, "train")] == [
        r.tolist() for r in units["train"]
    ]


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        (make_dataset(), "test", "no split in the units of .* 'test'"),
        (make_dataset(("a.wav",), (120,)), "train", "hold 3 recordings of split 'train', the data set has 1"),
        (
            make_dataset(("b.wav", "a.wav", None)),
            "train",
            r"made from 'a.wav' where the data set has 'b.wav' \(row 0\)",
        ),
        (
            make_dataset(counts=(120, 600, 55)),
            "train",
            "have 300 labels for 'b.wav', which lasts 6.00 s at 100 labels/s",
        ),
    ],
)
def test_join_refuses_other_recordings(folder, dataset, split, message):
    with pytest.raises(InputError, match=message):
        load_units(folder).join(dataset, split)


def test_an_incomplete_folder_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="holds no complete units"):
        load_units(tmp_path / "nowhere")
    (folder / INFO_FILE).unlink()
    with pytest.raises(InputError, match="holds no complete units"):
        load_units(folder)


def test_broken_files_are_refused(folder):
    (folder / INFO_FILE).write_text(json.dumps({"label_rate": 50}))
    with pytest.raises(InputError, match="lacks num_clusters, sampling_rate"):
        load_units(folder)
    (folder / INFO_FILE).write_text(json.dumps({**INFO, "num_clusters": 5}))
    with pytest.raises(InputError, match="holds unit 19 but says num_clusters 5"):
        load_units(folder)
    (folder / UNITS_FILE).write_bytes((folder / UNITS_FILE).read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        load_units(folder)

"""From recordings to units, on recordings whose every frame is known."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.checking import drop_broken
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.features import mfcc
from hf_ssl.data.loading import load_splits
from hf_ssl.data.units import load_units
from hf_ssl.errors import InputError
from hf_ssl.trainers.clustering import ClusteringArguments, cluster
from hf_ssl.trainers.extraction import Extraction
from hf_ssl.trainers.kmeans import assign
from hf_ssl.trainers.shards import ShardFolder
from tests.tiny_encoders import save_speech_encoder
from tests.trainers.recordings import RATE, write_recordings

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 16, "validation": 4}
ARGUMENTS = ClusteringArguments(num_clusters=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SpeechDataArguments:
    return write_recordings(tmp_path_factory.mktemp("recordings"), COUNTS)


@pytest.fixture(autouse=True)
def small_shards(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("hf_ssl.trainers.shards.SHARD_SECONDS", 4.0)


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The shards whose features were computed, in order."""
    names: list[str] = []
    compute = Extraction._compute

    def counted(self, shard):
        result = compute(self, shard)
        names.append(f"{shard.split}-{shard.number}")
        return result

    monkeypatch.setattr(Extraction, "_compute", counted)
    return names


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def assert_same_units(first: Path, second: Path) -> None:
    for name in COUNTS:
        assert load_units(first).splits[name].equals(load_units(second).splits[name])


def test_one_codebook_makes_the_units_of_every_split(data, tmp_path):
    folder = cluster(data, ARGUMENTS, tmp_path / "units")
    centroids = load_file(folder / "codebook.safetensors")["centroids"]
    units = load_units(folder)
    assert (units.num_clusters, units.label_rate, list(units.splits)) == (8, 100.0, list(COUNTS))
    for name, split in load_splits(data, "speech").items():
        assert len(split) == len(units.splits[name]) == COUNTS[name]
        for item, row in zip(split["audio"], units.splits[name]["units"].to_pylist(), strict=True):
            waveform = torch.from_numpy(decode_audio(item, RATE))
            assert assign(mfcc(waveform, RATE), centroids).tolist() == row


def test_units_join_the_data_they_were_made_of(data, tmp_path):
    folder = cluster(data, ARGUMENTS, tmp_path / "units")
    train = drop_broken(load_splits(data, "speech")["train"], "speech", data)
    joined = load_units(folder).join(train, "train")
    for row in joined:
        assert abs(len(row["units"]) / 100 - row["length"]) < 0.03


def test_units_find_the_vowels_and_not_the_speakers(data, tmp_path):
    vowels = ClusteringArguments(num_clusters=16, reference="vowels")
    speakers = ClusteringArguments(num_clusters=16, reference="speaker")
    of_vowels = report_of(cluster(data, vowels, tmp_path / "vowels"))["splits"]
    of_speakers = report_of(cluster(data, speakers, tmp_path / "speakers"))["splits"]
    for split in COUNTS:
        assert of_vowels[split]["purity"] > 0.75
        assert of_vowels[split]["pnmi"] > 0.6
        assert 1 < of_vowels[split]["perplexity"] <= 16
        assert of_speakers[split]["inertia"] == pytest.approx(of_vowels[split]["inertia"])


def test_the_report_counts_what_it_is_about(data, tmp_path):
    folder = cluster(data, ARGUMENTS, tmp_path / "units", seed=3)
    report, units = report_of(folder), load_units(folder)
    for split, measures in report["splits"].items():
        rows = units.splits[split]["units"].to_pylist()
        used = np.bincount(np.concatenate(rows), minlength=8)
        assert measures["num_recordings"] == COUNTS[split]
        assert measures["num_frames"] == used.sum()
        assert measures["num_unused"] == (used == 0).sum()
        assert "purity" not in measures
    assert report["fit"]["num_frames"] == report["splits"]["train"]["num_frames"]
    assert units.info["splits"] == report["splits"]
    assert (units.info["features"], units.info["layer"], units.info["seed"]) == ("mfcc", None, 3)


def test_only_the_shards_that_are_fitted_are_stored(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardFolder, "remove", lambda self: None)
    folder = cluster(data, ClusteringArguments(num_clusters=8, fit_fraction=0.5), tmp_path / "units")
    units = sorted(file.name for file in (folder / "shards").glob("units-train-*"))
    features = sorted(file.name for file in (folder / "shards").glob("features-*"))
    assert features == [name.replace("units", "features") for name in units[: -(-len(units) // 2)]]
    report = report_of(folder)
    stored = sum(len(load_file(folder / "shards" / name)["features"]) for name in features)
    assert report["fit"]["num_frames"] == stored < report["splits"]["train"]["num_frames"]


@pytest.mark.parametrize("num_done", [0, 1, 3, 5])
def test_an_interrupted_run_continues_after_the_shards_that_are_done(data, tmp_path, monkeypatch, computed, num_done):
    whole = cluster(data, ARGUMENTS, tmp_path / "whole")
    order = list(computed)
    assert len(order) > 5

    save = ShardFolder.save

    def interrupted(self, kind, shard, tensors):
        if len(computed) > num_done:
            raise KeyboardInterrupt
        save(self, kind, shard, tensors)

    computed.clear()
    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cluster(data, ARGUMENTS, tmp_path / "units")
    assert computed == order[: num_done + 1]
    computed.clear()
    assert_same_units(cluster(data, ARGUMENTS, tmp_path / "units"), whole)
    assert computed == order[num_done:]  # the one that was computed but not yet written is computed again
    assert not (tmp_path / "units" / "shards").exists()


KILLED = """
import os, signal, sys
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.trainers import clustering, shards

def write_half(tensors, file):
    if "features-train-00002" in str(file):
        file.write_bytes(b"half of a file")
        os.kill(os.getpid(), signal.SIGKILL)
    save_file(tensors, file)

save_file, shards.save_file = shards.save_file, write_half
shards.SHARD_SECONDS = 4.0
clustering.cluster(SpeechDataArguments(path=sys.argv[1]), clustering.ClusteringArguments(num_clusters=8), sys.argv[2])
"""


def test_killed_in_the_middle_of_a_file(data, tmp_path, computed):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, data.path, str(tmp_path / "units")], cwd=ROOT, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    cluster(data, ARGUMENTS, tmp_path / "units")
    assert computed[0] == "train-2"
    assert_same_units(tmp_path / "units", cluster(data, ARGUMENTS, tmp_path / "whole"))


def test_a_full_disk_loses_nothing(data, tmp_path, monkeypatch, computed):
    def full(tensors, file):
        if "features-train-00002" in str(file):
            file.write_bytes(b"as much as fitted")
            raise OSError(28, "No space left on device")
        save_file(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr("hf_ssl.trainers.shards.save_file", full)
        with pytest.raises(InputError, match=r"features-train-00002.*No space left on device.*free some space"):
            cluster(data, ARGUMENTS, tmp_path / "units")
    assert not list((tmp_path / "units" / "shards").glob(".*"))
    assert computed == ["train-0", "train-1", "train-2"]
    cluster(data, ARGUMENTS, tmp_path / "units")
    assert computed[3] == "train-2"


def test_features_that_would_not_fit_on_the_disk(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"take 0\.0 GB, but .* has room for 0\.0 GB; lower fit_fraction"):
        cluster(data, ARGUMENTS, tmp_path / "units")


def test_complete_units_are_kept(data, tmp_path, computed):
    folder = cluster(data, ARGUMENTS, tmp_path / "units")
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    computed.clear()
    cluster(data, ARGUMENTS, tmp_path / "units")
    assert not computed
    assert before == {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_killed_right_after_the_report(data, tmp_path, monkeypatch, computed):
    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "remove", lambda self: None)
        folder = cluster(data, ARGUMENTS, tmp_path / "units")
    computed.clear()
    cluster(data, ARGUMENTS, folder)
    assert not computed
    assert not (folder / "shards").exists()


def test_an_output_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"shards could not be written \(.*Not a directory"):
        cluster(data, ARGUMENTS, tmp_path / "file")


def test_units_of_other_settings_are_not_overwritten(data, tmp_path):
    cluster(data, ARGUMENTS, tmp_path / "units")
    with pytest.raises(InputError, match="made with num_clusters 8, not 9; choose another folder"):
        cluster(data, ClusteringArguments(num_clusters=9), tmp_path / "units")
    fewer = SpeechDataArguments(path=data.path, max_train_items=10)
    with pytest.raises(InputError, match=r"made with recordings .*'16 lasting .*'10 lasting"):
        cluster(fewer, ARGUMENTS, tmp_path / "units")


def test_unfinished_units_of_other_settings_are_not_mixed_in(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("hf_ssl.trainers.clustering.fit", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cluster(data, ARGUMENTS, tmp_path / "units")
    with pytest.raises(InputError, match="made with seed 0, not 1"):
        cluster(data, ARGUMENTS, tmp_path / "units", seed=1)


def test_the_layer_of_an_encoder(data, tmp_path):
    encoder = save_speech_encoder(tmp_path / "encoder")
    arguments = ClusteringArguments(features=str(encoder), layer=1, num_clusters=6)
    folder = cluster(data, arguments, tmp_path / "units")
    units = load_units(folder)
    assert units.label_rate == 50.0
    assert load_file(folder / "codebook.safetensors")["centroids"].shape == (6, 32)
    weights = load_file(encoder / "model.safetensors")
    weights["encoder.layer_norm.bias"] += 1.0
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="made with weights"):
        cluster(data, arguments, tmp_path / "units")


def test_features_that_are_not_finite(data, tmp_path):
    encoder = save_speech_encoder(tmp_path / "encoder")
    weights = load_file(encoder / "model.safetensors")
    weights["encoder.layers.0.layer_norm.weight"] *= float("nan")
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"features of .*train-\d+\.wav are not finite"):
        cluster(data, ClusteringArguments(features=str(encoder), layer=1), tmp_path / "units")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "mfc"}, "There is no features to cluster .* 'mfc'; did you mean 'mfcc'"),
        ({"features": "mfcc", "layer": 3}, "mfcc has no layers"),
        ({"features": "./nowhere", "layer": 1}, "No encoder can be loaded from ./nowhere"),
        ({"reference": "speakr"}, "There is no column of labels in split train 'speakr'; did you mean 'speaker'"),
        ({"num_clusters": 10_000}, "10000 clusters were asked for, but there are"),
    ],
)
def test_names_and_numbers_that_cannot_be_used(data, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        cluster(data, ClusteringArguments(**{"num_clusters": 8, **settings}), tmp_path / "units")


@pytest.mark.parametrize(("field", "value"), [("num_clusters", 1), ("fit_fraction", 0.0), ("fit_fraction", 1.5)])
def test_arguments_out_of_range(field, value):
    with pytest.raises(InputError, match=f"{field} is {value}"):
        ClusteringArguments(**{field: value})


def test_streamed_data_has_no_rows(data, tmp_path):
    streamed = SpeechDataArguments(path=data.path, streaming=True)
    with pytest.raises(InputError, match=r"set data\.streaming=false"):
        cluster(streamed, ARGUMENTS, tmp_path / "units")

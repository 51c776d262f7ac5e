"""`hf-ssl cluster` on the embedded recordings."""

import json
from pathlib import Path

import pytest

from hf_ssl.cli.main import main
from hf_ssl.data.units import load_units
from tests.tiny_encoders import save_speech_encoder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_two_iterations_on_the_sample(tmp_path, capsys):
    first, second = tmp_path / "it1", tmp_path / "it2"
    few = "data.max_train_items=60"
    assert main(["cluster", "--data", "sample:speech", "--clusters", "20", "--output", str(first), few]) == 0
    assert "| train | 60 |" in capsys.readouterr().out
    encoder = save_speech_encoder(tmp_path / "encoder")
    layer = ["--features", str(encoder), "--layer", "2", "--clusters", "30", "--reference", "language"]
    assert main(["cluster", "--data", "sample:speech", *layer, "--output", str(second), few]) == 0
    out = capsys.readouterr().out
    assert "| split | recordings | frames | inertia | units in use | purity | cluster purity | PNMI |" in out
    assert f"30 units at 50 Hz are in {second}; train with data.units={second}" in out
    assert [load_units(folder).label_rate for folder in (first, second)] == [100.0, 50.0]
    assert [load_units(folder).num_clusters for folder in (first, second)] == [20, 30]
    report = json.loads((second / "report.json").read_text())
    assert report["splits"]["test"]["num_unused"] < 30
    assert 0 < report["splits"]["test"]["pnmi"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "mffc"], "did you mean 'mfcc'?"),
        (["--clusters", "1"], "num_clusters is 1"),
        (["data.min_second=1"], "did you mean 'min_seconds'?"),
        (["training.seed=1"], "There is no top-level key of a run file 'training'"),
        (["--reference", "langage"], "did you mean 'language'?"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, capsys, options, message):
    units = str(tmp_path / "units")
    assert main(["cluster", "--data", "sample:speech", "--output", units, *options, "data.max_train_items=2"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hf-ssl: ")
    assert message in error
    assert not Path(units).exists()


def test_help_is_enough(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["cluster", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for word in ("--features", "--layer", "--clusters", "--reference", "data.units", "report.json", "examples:"):
        assert word in out

import json
from statistics import stdev

import pytest

from hf_ssl.evaluation.result import EvaluationResult, Measurement, Row
from hf_ssl.evaluation.scores import SCORES


def measurement(value, settings="C=1", layer=2):
    return Measurement(
        settings=settings,
        layer=layer,
        validation_accuracy=0.5,
        scores=dict.fromkeys(SCORES, value),
        intervals=dict.fromkeys(SCORES, (value - 0.1, value + 0.1)),
    )


@pytest.fixture
def result():
    return EvaluationResult(
        encoder="runs/x/encoder",
        data="sample:emoji",
        label="category",
        modality="vision",
        pooling="mean",
        num_items={"train": 10, "validation": 5, "test": 5},
        num_classes=3,
        rows=[
            Row("encoder", "kNN", [measurement(0.75)], num_labelled=10),
            Row(
                "random initialisation",
                "kNN",
                [measurement(0.5), measurement(0.6, "C=0.1", 3), measurement(0.55)],
                [0, 1, 2],
                train_fraction=0.1,
                num_labelled=1,
            ),
            Row("pixels", "kNN", [measurement(0.25, layer=None)]),
        ],
        versions={"torch": "2.13.0"},
        command="hf-ssl evaluate runs/x/encoder",
    )


def test_seeds_are_summarised(result):
    row = result.row("random initialisation", "kNN", train_fraction=0.1)
    assert row.mean() == pytest.approx(0.55)
    assert row.spread("macro_f1") == pytest.approx(stdev([0.5, 0.6, 0.55]))
    assert result.row("encoder", "kNN").spread() is None


def test_table(result):
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| features | method | labelled items | layer | accuracy | balanced accuracy | macro F1 |"
    assert lines[2].startswith("| encoder | offline kNN (C=1) | 10 | 2 | 0.750 [0.650, 0.850] |")
    assert lines[3].startswith(
        "| random initialisation (seeds 0, 1, 2) | offline kNN (C=1, C=0.1) | 1 (10 %) | 2, 3 | 0.550 ± 0.050 | 0.550"
    )
    assert lines[4].startswith("| pixels | offline kNN (C=1) | all | – |")
    assert "Command: `hf-ssl evaluate runs/x/encoder`" in lines
    assert lines[-1] == "Versions: torch 2.13.0"


def test_json_holds_every_run(result, tmp_path):
    result.save(tmp_path / "new" / "results.json")
    values = json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8"))
    assert values["rows"][1]["runs"][1]["scores"]["accuracy"] == 0.6
    assert values["rows"][1]["seeds"] == [0, 1, 2]
    assert values["rows"][1]["summary"]["accuracy"]["spread"] == pytest.approx(0.05)
    assert values["rows"][0]["summary"]["accuracy"] == {"mean": 0.75, "spread": None}
    assert values["num_items"] == {"train": 10, "validation": 5, "test": 5}


def test_offline_is_said_everywhere(result):
    """Beside an online probe no number may be taken for another."""
    table = result.to_markdown()
    assert "Offline: the finished encoder is frozen." in table
    assert all(" | offline " in line for line in table.splitlines()[2:5])
    assert result.to_dict()["evaluation"] == "offline"

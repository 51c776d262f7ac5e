import re
from pathlib import Path

import numpy as np
import pytest

from hf_ssl.cli import figures
from hf_ssl.cli.report import ModalityReport, verdict, write_report
from hf_ssl.evaluation.result import EvaluationResult, Measurement, Row
from hf_ssl.evaluation.scores import SCORES


def measured(score: float) -> Measurement:
    scores = dict.fromkeys(SCORES, score)
    return Measurement("C=1", 2, score, scores, {name: (score - 0.02, score + 0.02) for name in SCORES})


def result(pretrained: float, untrained: tuple[float, ...], raw: float) -> EvaluationResult:
    rows = [
        Row("encoder", "kNN", [measured(pretrained)]),
        Row("random initialisation", "kNN", [measured(score) for score in untrained], [0, 1, 2]),
        Row("pixels", "kNN", [measured(raw)]),
    ]
    items = {"train": 8, "validation": 4, "test": 4}
    return EvaluationResult("encoder", "sample:emoji", "category", "vision", "mean", items, 3, rows, {"torch": "2"})


@pytest.mark.parametrize(
    ("pretrained", "outcome", "size", "raw"),
    [
        (0.60, "0.200 above", "more", "won"),
        (0.42, "0.020 above", "less", "lost"),
        (0.30, "0.100 below", "more", "lost"),
    ],
)
def test_the_verdict_follows_from_the_numbers(pretrained: float, outcome: str, size: str, raw: str) -> None:
    assert verdict(result(pretrained, (0.35, 0.40, 0.45), raw=0.5), "kNN", "accuracy") == (
        f"kNN: {pretrained:.3f}, which is {outcome} random initialisation (0.400), {size} than the standard deviation "
        f"of its 3 seeds (0.050); {raw} against pixels (0.500)."
    )


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    log = [{"step": 10 * n, "loss": 3.0 / n, "loss_mlm": 3.0 / n, "accuracy": 0.1 * n} for n in range(1, 4)]
    features = np.random.default_rng(0).standard_normal((20, 4))
    part = ModalityReport(
        title="Text <BERT>",
        idea="It learns.",
        command="hf-ssl pretrain bert_glosses",
        encoder=tmp_path / "encoder",
        seconds=61.2,
        log=log,
        result=result(0.6, (0.35, 0.40, 0.45), raw=0.5),
        score="accuracy",
        map_figure=figures.embedding_map(features, ["a", "b"] * 10, names=[f"name {n}" for n in range(20)]),
        adapters=[],
        loading=[("The encoder:", "AutoModel.from_pretrained('encoder')")],
    )
    page = write_report(tmp_path / "report.html", [part], {"torch": "2"}).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert "Text &lt;BERT&gt;" in page
    assert page.count("<svg") == 3
    assert "hf-ssl pretrain bert_glosses" in page
    assert part.verdicts()[0] in page


def test_names_on_the_map_do_not_cover_each_other() -> None:
    places = np.array([[0.1, 0.1], [0.15, 0.11], [0.15, 0.5], [0.9, 0.1]])
    assert figures.apart(places) == [0, 2, 3]
    assert figures.shortened("Tutti i nostri operatori sono occupati") == "Tutti i nostri oper…"
    assert len(figures.shortened("x" * 99)) == figures.NAME_LENGTH

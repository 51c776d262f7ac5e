"""The quickstart's report: one page that needs nothing but itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hf_ssl.cli import figures
from hf_ssl.evaluation.result import EvaluationResult

TEMPLATE = Path(__file__).with_name("report_template.html")


@dataclass
class ModalityReport:
    """What the quickstart found in one modality.

    Args:
        title (`str`): heading.
        idea (`str`): what the objective is, in a sentence.
        command (`str`): that pretrains the same.
        encoder (`Path`): folder of the plain encoder.
        seconds (`float`, *optional*): of the pretraining, unless it was resumed.
        log (`list[dict[str, float]]`): the pretraining's log.
        result ([`EvaluationResult`]): probes beside the baselines.
        score (`str`): which of the scores is shown.
        map_figure (`str`): the embedding map as SVG.
        adapters (`list[dict[str, Any]]`): rows of the table of adapters: name, task, trained, share, megabytes,
            metric, value, folder.
        loading (`list[tuple[str, str]]`): what is loaded, and the Python lines that load it.
    """

    title: str
    idea: str
    command: str
    encoder: Path
    seconds: float | None
    log: list[dict[str, float]]
    result: EvaluationResult
    score: str
    map_figure: str
    adapters: list[dict[str, Any]]
    loading: list[tuple[str, str]]

    def figures(self) -> dict[str, Markup]:
        """The figures by name."""
        return {
            "loss": Markup(figures.loss_curves(self.log)),
            "probes": Markup(figures.probe_bars(self.result, self.score)),
            "map": Markup(self.map_figure),
        }

    def verdicts(self) -> list[str]:
        """What the measurement says, in words that follow from the numbers alone."""
        return [verdict(self.result, method, self.score) for method in self.methods()]

    def methods(self) -> list[str]:
        """The methods that the pretrained encoder was measured with."""
        return [row.method for row in self.result.rows if row.features == "encoder"]


def verdict(result: EvaluationResult, method: str, score: str) -> str:
    """The pretrained encoder against the untrained ones and raw features, under one method."""
    pretrained, untrained = result.row("encoder", method).mean(score), result.row("random initialisation", method)
    spread, mean = untrained.spread(score) or 0.0, untrained.mean(score)
    difference = pretrained - mean
    outcome = "above" if difference > 0 else "below"
    size = "more" if abs(difference) > spread else "less"
    text = (
        f"{method}: {pretrained:.3f}, which is {abs(difference):.3f} {outcome} random initialisation ({mean:.3f}), "
        f"{size} than the standard deviation of its {len(untrained.runs)} seeds ({spread:.3f})"
    )
    raw = [row for row in result.rows if row.features not in ("encoder", "random initialisation")]
    for row in (row for row in raw if row.method == method):
        relation = "won" if pretrained > row.mean(score) else "lost"
        text += f"; {relation} against {row.features} ({row.mean(score):.3f})"
    return text + "."


def write_report(path: Path, parts: list[ModalityReport], facts: dict[str, str]) -> Path:
    """Write the page.

    Args:
        path (`Path`): the HTML file.
        parts (`list[ModalityReport]`): one a modality.
        facts (`dict[str, str]`): about the machine and the software, for the foot of the page.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(template.render(parts=parts, facts=facts), encoding="utf-8")
    return path

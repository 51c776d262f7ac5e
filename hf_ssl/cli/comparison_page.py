"""The page of a comparison of objectives: one HTML file that needs nothing but itself."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hf_ssl.cli import comparison_figures as figures
from hf_ssl.cli.comparison_words import SCORE, findings, header, legend, lines, ranked
from hf_ssl.evaluation.comparison import ONLINE, ComparedObjective, ComparisonResult

TEMPLATE = Path(__file__).with_name("comparison_template.html")


def write_page(path: Path, result: ComparisonResult) -> None:
    """Write the page.

    Args:
        path (`Path`): the HTML file.
        result ([`ComparisonResult`]): with at least one finished run.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    objectives = ranked(result)
    page = template.render(
        result=result,
        findings=findings(result),
        header=header(result),
        lines=lines(result),
        legend=legend(result),
        encoder=yaml.safe_dump(result.settings["encoder"], sort_keys=False),
        score=SCORE.replace("_", " "),
        figures={name: Markup(svg) for name, svg in make_figures(result, objectives).items()},
        maps=make_maps(result, objectives),
        warnings=[(row.title, seed.seed, warning)
                  for row in objectives for seed in row.seeds for warning in seed.warnings],
        settings=[(row.title, row.recipe, yaml.safe_dump(_own_settings(row), sort_keys=False)) for row in objectives],
        classes=figures.class_colours(result.items["mapped_labels"])[1] if result.methods else {},
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")


def make_figures(result: ComparisonResult, objectives: list[ComparedObjective]) -> dict[str, str]:
    """The figures but for the maps, by name; without labels there are no scores."""
    style = figures.styles([row.name for row in objectives])
    made = {"collapse": figures.collapse_curves(objectives, style)}
    if result.methods:
        method = result.methods[0]
        baselines = [row for row in result.baselines if row.method == method]
        made["scores"] = figures.score_bars(result.rows(method), baselines, SCORE, result.items["num_classes"])
    if result.methods and all(row.curve(ONLINE) for row in objectives):
        made["curves"] = figures.curves(objectives, style)
    return made


def make_maps(result: ComparisonResult, objectives: list[ComparedObjective]) -> list[tuple[str, Markup]]:
    """A map for each objective whose first run is finished, and one of the untrained encoder."""
    items = result.items
    colours = figures.class_colours(items["mapped_labels"])[0] if result.methods else items["mapped_colours"]
    places = {row.title: seed.judgement.places for row in objectives for seed in row.seeds if seed.judgement.places}
    if result.untrained is not None:
        places["random initialisation"] = result.untrained.places
    return [(title, Markup(figures.embedding_map(of_one, colours))) for title, of_one in places.items()]


def _own_settings(row: ComparedObjective) -> dict[str, Any]:
    """What an objective does not share with the others, as its run file has it."""
    model = {key: value for key, value in row.settings["model"].items() if key != "encoder_config"}
    data = {key: row.settings["data"][key] for key in ("augmentation", "local_image_size")}
    shared = ("per_device_train_batch_size", "report_to", "save_total_limit")
    training = {key: value for key, value in row.settings["training"].items() if key not in shared}
    return {"model": model, "data": data, "training": training}

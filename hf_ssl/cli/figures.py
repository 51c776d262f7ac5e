"""The figures of reports and cards, as SVG text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from hf_ssl.evaluation.embedding_map import map_places
from hf_ssl.evaluation.result import EvaluationResult, Row

PRETRAINED, RANDOM, RAW, INK, GRID = "#2f6f9f", "#b9bfc6", "#d9a441", "#30363d", "#e6e8eb"
NUM_COLOURED_CLASSES = 8
NAME_LENGTH = 20
"""Characters of a name on the map."""
NAME_EXTENT = (0.14, 0.03)
"""The place that such a name takes, in shares of the map's width and height."""

matplotlib.rcParams.update(
    {
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "hf_ssl",  # the same figure is the same file
        "axes.edgecolor": "#8b949e",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def loss_curves(log: Sequence[dict[str, float]], diagnostic: str = "accuracy") -> str:
    """The terms of the loss by step, and one diagnostic of the pretraining beside them.

    Args:
        log (`Sequence[dict[str, float]]`): the trainer's log history.
        diagnostic (`str`): key of the second plot.
    """
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [entry for entry in log if "loss" in entry]
    for name in sorted({key for entry in steps for key in entry if key.startswith("loss_")}):
        left.plot([e["step"] for e in steps if name in e], [e[name] for e in steps if name in e], label=name[5:])
    left.set(xlabel="step", ylabel="nats", title="terms of the loss", ylim=(0, None))
    if left.get_lines():
        left.legend(frameon=False)
    known = [entry for entry in steps if diagnostic in entry]
    right.plot([entry["step"] for entry in known], [entry[diagnostic] for entry in known], color=PRETRAINED)
    right.set(xlabel="step", title=f"pretraining {diagnostic}", ylim=(0, None))
    for axes in (left, right):
        axes.grid(color=GRID)
    return as_svg(figure)


def probe_bars(result: EvaluationResult, score: str) -> str:
    """The score on the test items of the pretrained encoder, the untrained one and raw features.

    The whiskers are three seeds' standard deviation for the untrained encoders and the bootstrap 95 % interval
    otherwise.
    """
    rows = sorted(result.rows, key=lambda row: row.method, reverse=True)
    figure = Figure(figsize=(8.4, 0.42 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        mean = row.mean(score)
        axes.barh(place, mean, height=0.66, color=_colour(row), xerr=_whisker(row, score), ecolor=INK, capsize=3)
        axes.text(0.004, place, f" {mean:.3f}", va="center", color="white" if _colour(row) == PRETRAINED else INK)
    axes.set_yticks(range(len(rows)), [f"{_title(row)}, {row.method}" for row in reversed(rows)])
    axes.set(xlabel=f"{score.replace('_', ' ')} on the test items", xlim=(0, None))
    axes.axvline(1 / result.num_classes, color=INK, linestyle=":", linewidth=1)
    return as_svg(figure)


def embedding_map(
    features: np.ndarray,
    labels: Sequence[str],
    thumbnails: Sequence[Image.Image] | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The encoder's features in two dimensions (t-SNE): as pictures, or as points coloured by their class.

    Args:
        features (`ndarray` of shape `(N, D)`): one row an item.
        labels (`Sequence[str]`): class of each item.
        thumbnails (`Sequence[Image]`, *optional*): drawn in place of the points.
        names (`Sequence[str]`, *optional*): the points that lie apart are labelled with them.
    """
    places = map_places(features)
    figure = Figure(figsize=(8.4, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    low, high = places.min(axis=0) - 2, places.max(axis=0) + 2
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if thumbnails is not None:
        for place, image in zip(places, thumbnails, strict=True):
            picture = OffsetImage(np.asarray(image), zoom=0.5)
            axes.add_artist(AnnotationBbox(picture, (float(place[0]), float(place[1])), frameon=False))
        return as_svg(figure)
    kinds, counts = np.unique(np.asarray(labels), return_counts=True)
    shown = list(kinds[np.argsort(-counts, kind="stable")][:NUM_COLOURED_CLASSES])
    for kind in [None, *shown]:
        chosen = np.array([(label not in shown) if kind is None else label == kind for label in labels])
        style = {"color": RANDOM, "label": "other"} if kind is None else {"label": kind}
        if chosen.any():
            axes.scatter(places[chosen, 0], places[chosen, 1], s=16, **style)
    if names is not None:
        for index in apart((places - low) / (high - low)):
            axes.annotate(
                shortened(names[index]), places[index], fontsize=7, xytext=(3, 3), textcoords="offset points"
            )
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    return as_svg(figure)


def exit_curve(curve: Mapping[str, Any]) -> str:
    """The score of a model with exits against the layers used and against measured time, as shares of full depth's.

    Args:
        curve (`Mapping[str, Any]`): of [`hf_ssl.evaluation.early_exit.curve.ExitCurve.to_dict`].
    """
    points, chosen = curve["points"], curve["settings"]["chosen_threshold"]
    score = next(iter(points[0]["scores"]))
    costs = {"layers used": [point["depth"] for point in points]}
    costs |= {f"time, batch {size}": [point["time"][size] for point in points] for size in points[0]["time"]}
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for (name, cost), colour in zip(costs.items(), (PRETRAINED, RAW, RANDOM), strict=False):
        order = np.argsort(cost, kind="stable")
        scores = np.array([point["scores"][score] for point in points])
        axes.plot(np.array(cost)[order], scores[order], marker="o", markersize=4, color=colour, label=name)
        for point, value in zip(points, cost, strict=True):
            if point["threshold"] == chosen:
                axes.scatter(value, point["scores"][score], s=90, facecolors="none", edgecolors=INK)
    axes.set(xlabel="share of full depth", ylabel=score.replace("_", " "), title=f"early exit by {curve['policy']}")
    axes.grid(color=GRID)
    axes.legend(frameon=False)
    return as_svg(figure)


def score_against_parameters(points: Sequence[tuple[str, int, float, float | None]], score: str) -> str:
    """Tuners by how many parameters they train and how well they do; the whiskers are standard deviations over seeds.

    Args:
        points (`Sequence[tuple]`): name, trained parameters, mean score, and its standard deviation (`None` for one
            seed).
        score (`str`): what it is called.
    """
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, trained, mean, spread in points:
        colour = RAW if name == "none" else PRETRAINED
        axes.errorbar(trained, mean, yerr=spread, fmt="o", markersize=5, color=colour, ecolor=RANDOM, capsize=3)
        title = "full fine-tuning" if name == "none" else name
        axes.annotate(title, (trained, mean), fontsize=8, xytext=(5, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="trained parameters", ylabel=score)
    axes.margins(x=0.18)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    return as_svg(figure)


def apart(places: np.ndarray) -> list[int]:
    """The points (N, 2), in shares of the map's width and height, whose names fit beside each other."""
    kept: list[int] = []
    for index, place in enumerate(places):
        if not (np.abs(places[kept] - place) < NAME_EXTENT).all(axis=1).any():
            kept.append(index)
    return kept


def shortened(name: str) -> str:
    """A name that fits in its place on the map."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1].rstrip()}…"


def _title(row: Row) -> str:
    return "pretrained" if row.features == "encoder" else row.features


def _colour(row: Row) -> str:
    return {"encoder": PRETRAINED, "random initialisation": RANDOM}.get(row.features, RAW)


def _whisker(row: Row, score: str) -> np.ndarray:
    spread = row.spread(score)
    if spread is not None:
        return np.array([[spread], [spread]])
    low, high = row.runs[0].intervals[score]
    mean = row.mean(score)
    return np.array([[max(mean - low, 0.0)], [max(high - mean, 0.0)]])


def as_svg(figure: Figure) -> str:
    """A figure as an SVG element."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]

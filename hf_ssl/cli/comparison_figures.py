"""The figures of a comparison of objectives, as SVG text."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hf_ssl.cli.figures import GRID, INK, NUM_COLOURED_CLASSES, RANDOM, RAW, as_svg
from hf_ssl.evaluation.comparison import ONLINE, PASSES, SECONDS, STEP, ComparedObjective
from hf_ssl.evaluation.ranking import half_width
from hf_ssl.evaluation.result import Row

COLOURS = (
    "#2f6f9f",
    "#d1495b",
    "#4d9a52",
    "#8a5fa8",
    "#d98032",
    "#17989c",
    "#a0703f",
    "#c9599b",
    "#6b7f1f",
    "#555d66",
)
LINES = ("-", "--", ":")
COSTS = {STEP: "optimiser steps", SECONDS: "seconds of training", PASSES: "encoder passes"}

Style = dict[str, str]


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour and a kind of line for each objective."""
    return {
        name: {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
        for index, name in enumerate(names)
    }


def score_bars(rows: Sequence[Row], baselines: Sequence[Row], score: str, num_classes: int) -> str:
    """The score of each objective and of the baselines with its 95 % interval, the best on top."""
    bars = [*reversed(baselines), *sorted(rows, key=lambda row: row.mean(score))]
    figure = Figure(figsize=(10.4, 0.34 * len(bars) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(bars):
        colour = COLOURS[0] if row in rows else RANDOM if row.features == "random initialisation" else RAW
        mean, half = row.mean(score), half_width(row, score)
        axes.barh(place, mean, height=0.66, color=colour, xerr=half, ecolor=INK, capsize=2.5, error_kw={"lw": 1})
        axes.text(0.004, place, f" {mean:.3f}", va="center", color="white" if row in rows else INK, fontsize=9)
    axes.set_yticks(range(len(bars)), [row.features for row in bars])
    axes.set(xlabel=f"{score.replace('_', ' ')} of the {bars[0].method} on the test items", xlim=(0, None))
    axes.axvline(1 / num_classes, color=INK, linestyle=":", linewidth=1)
    return as_svg(figure)


def curves(objectives: Sequence[ComparedObjective], style: dict[str, Style]) -> str:
    """The online kNN's accuracy on validation items against what the training has cost, one plot a kind of cost."""
    figure = Figure(figsize=(10.4, 3.9 + 0.2 * -(-len(objectives) // 5)), layout="constrained")
    plots = figure.subplots(1, len(COSTS), sharey=True)
    for row in objectives:
        points = row.curve(ONLINE)
        spreads = None if points[0].spread is None else [point.spread for point in points]
        costs = {STEP: [point.step for point in points], SECONDS: [point.seconds for point in points]}
        costs[PASSES] = [point.passes for point in points]
        for axes, name in zip(plots, COSTS, strict=True):
            axes.errorbar(
                costs[name], [point.mean for point in points], yerr=spreads, label=row.title, linewidth=1.4,
                elinewidth=0.8, capsize=2, marker="o", markersize=2.6, **style[row.name],
            )  # fmt: skip
    for axes, title in zip(plots, COSTS.values(), strict=True):
        axes.set(xlabel=title)
        _tidy(axes)
    plots[0].set(ylabel="online kNN, accuracy on validation")
    _legend_below(figure, plots[0])
    return as_svg(figure)


def collapse_curves(objectives: Sequence[ComparedObjective], style: dict[str, Style]) -> str:
    """Effective rank and feature std of the training batches by step, averaged over seeds."""
    names = {"effective_rank": "effective rank", "feature_std": "feature std"}
    figure = Figure(figsize=(10.4, 3.6 + 0.2 * -(-len(objectives) // 5)), layout="constrained")
    plots = figure.subplots(1, len(names))
    for row in objectives:
        for axes, name in zip(plots, names, strict=True):
            points = row.curve(name)
            values = [point.mean for point in points]
            axes.plot([point.step for point in points], values, label=row.title, linewidth=1.4, **style[row.name])
    for axes, title in zip(plots, names.values(), strict=True):
        axes.set(xlabel="optimiser steps", title=title, ylim=(0, None))
        _tidy(axes)
    _legend_below(figure, plots[0])
    return as_svg(figure)


def embedding_map(places: Sequence[Sequence[float]], colours: Sequence[str]) -> str:
    """Items as points on a map of their features."""
    figure = Figure(figsize=(3.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set_aspect("equal", adjustable="datalim")
    across, up = np.asarray(places).T
    axes.scatter(across, up, s=8, c=list(colours), linewidths=0.15, edgecolors=INK)
    return as_svg(figure)


def class_colours(labels: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """A colour for each item: of its class, where it is among the most frequent ones; and the colours by class."""
    kinds, counts = np.unique(np.asarray(labels), return_counts=True)
    shown = kinds[np.argsort(-counts, kind="stable")][:NUM_COLOURED_CLASSES]
    by_class = {str(kind): COLOURS[index] for index, kind in enumerate(shown)}
    if len(kinds) > len(shown):
        by_class["other"] = RANDOM
    return [by_class.get(label, RANDOM) for label in labels], by_class


def _tidy(axes: Axes) -> None:
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}")
    )
    axes.locator_params(axis="x", nbins=5)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, titles = axes.get_legend_handles_labels()
    figure.legend(handles, titles, frameon=False, ncols=min(5, len(titles)), loc="outside lower center", fontsize=9)

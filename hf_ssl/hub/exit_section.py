"""What the card and the commands say of a model's exits, made of what stands in its metrics.json."""

from pathlib import Path
from typing import Any

FIGURE = "exit_curve.svg"
"""File beside the model with the plot of its score against its speed."""


def exit_section(metrics: dict[str, Any], folder: Path) -> str | None:
    """Markdown on the exits of a fine-tuned model; `None` where it has none.

    Args:
        metrics (`dict[str, Any]`): its metrics.json: `exits` (scores by split and layer), and where `hf-ssl exits` was
            there `exit_calibration` and `exit_curve`.
        folder (`Path`): where the plot lies.
    """
    if "exits" not in metrics:
        return None
    parts = [exit_scores_table(metrics["exits"])]
    if "exit_calibration" in metrics:
        parts.append(calibration_sentence(metrics["exit_calibration"]))
    if "exit_curve" in metrics:
        parts.append(curve_table(metrics["exit_curve"]))
        if (folder / FIGURE).is_file():
            parts.append(f"![Score against speed]({FIGURE})")
    return "\n\n".join(parts)


def exit_scores_table(exits: dict[str, dict[str, dict[str, float]]]) -> str:
    """The scores of each exit where everything left there: by split, layer and metric."""
    columns = [(split, metric) for split, by_layer in exits.items() for metric in next(iter(by_layer.values()))]
    lines = [
        f"| exit after layer | {' | '.join(f'{split} {metric}' for split, metric in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for layer in next(iter(exits.values())):
        cells = [f"{exits[split][layer][metric]:.4g}" for split, metric in columns]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def calibration_sentence(calibration: dict[str, Any]) -> str:
    """How the threshold was chosen, and what was promised of it."""
    where = f"the {calibration['num_items']} validation items of {calibration['data']}"
    if calibration["is_full_depth"]:
        return f"Nothing leaves early: on {where}, no threshold of {calibration['policy']} is what was asked for."
    said = (
        f"Items leave at the first exit whose certainty ({calibration['policy']}) is above "
        f"{calibration['threshold']:.6g}, chosen on {where}, where they run through {calibration['mean_layers']:.2f} "
        f"of {calibration['depth']} layers on average."
    )
    guarantee = calibration["guarantee"]
    if guarantee is None:
        return said + " It was chosen without a promise for other items."
    return (
        f"{said} With confidence {guarantee['confidence']:g}, the {guarantee['meaning']} is at most "
        f"{guarantee['bound']:g} for items drawn as those were (Learn then Test, arXiv:2110.01052)."
    )


def curve_table(curve: dict[str, Any]) -> str:
    """Every point of the curve, and the areas under it."""
    points, settings = curve["points"], curve["settings"]
    times, scores = list(points[0]["time"]), list(points[0]["scores"])
    titles = ["threshold", "layers used", *scores, *(f"time, batch {size}" for size in times)]
    lines = [f"| {' | '.join(titles)} |", f"|{'---:|' * len(titles)}"]
    for point in points:
        cells = [f"{point['threshold']:.6g}", f"{point['depth']:.0%}"]
        cells += [f"{point['scores'][name]:.4g}" for name in scores]
        cells += [f"{point['time'][size]:.2f}" for size in times]
        lines.append(f"| {' | '.join(cells)} |")
    areas = "; ".join(
        f"over {kind} " + ", ".join(f"{name} {value:.4g}" for name, value in by_name.items())
        for kind, by_name in curve["areas"].items()
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Policy {curve['policy']}; {curve['num_items']} {settings['split']} items of {settings['data']}. Layers "
            f"used and times are shares of full depth's, times measured side by side on {settings['hardware']} "
            f"({settings['timed_items']} items, median of {settings['rounds']} rounds). Areas under the curve over "
            f"its width, which is the mean score over budgets: {areas}.",
            "",
            f"Command: `{settings['command']}`",
        ]
    )

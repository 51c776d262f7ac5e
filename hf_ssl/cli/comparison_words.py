"""A comparison of objectives in words and as a Markdown table."""

from collections.abc import Sequence

from hf_ssl.evaluation.comparison import PASSES, SECONDS, ComparedObjective, ComparisonResult
from hf_ssl.evaluation.ranking import against, half_width
from hf_ssl.evaluation.result import Row

SCORE = "balanced_accuracy"
"""By which objectives are ranked: classes are seldom equally frequent."""
SHOWN = (SCORE, "accuracy")


def ranked(result: ComparisonResult) -> list[ComparedObjective]:
    """The finished objectives, the best mean first; without labels in the order asked for."""
    if not result.methods:
        return result.finished
    return sorted(result.finished, key=lambda row: -row.row(result.methods[0]).mean(SCORE))


def header(result: ComparisonResult) -> list[str]:
    """The titles of the columns."""
    scores = [f"{method}: {score.replace('_', ' ')}" for method in result.methods for score in SHOWN]
    layers = ["layers"] if result.methods else []
    costs = ["steps", "minutes", "encoder passes", "effective rank", "feature std", "seeds"]
    return ["features", *scores, *layers, *costs]


def lines(result: ComparisonResult) -> list[list[str]]:
    """The cells of the table: objectives, baselines, and what failed with its reason."""
    width = len(header(result))
    found = [[*_measured([row.row(method) for method in result.methods], row.title), *_costs(row)]
             for row in ranked(result)]  # fmt: skip
    for features in dict.fromkeys(row.features for row in result.baselines):
        rows = [row for row in result.baselines if row.features == features]
        has_signs = features == "random initialisation" and result.untrained is not None
        signs = _signs(result.untrained.collapse) if has_signs and result.untrained else ["", ""]
        found.append([*_measured(rows, features), "0", "", "", *signs, str(len(rows[0].runs))])
    if not result.methods and result.untrained is not None:
        found.append(["random initialisation", "0", "", "", *_signs(result.untrained.collapse), "1"])
    for row in result.objectives:
        if not row.seeds:
            reason = next(iter(row.failures.values()))
            found.append([row.title, f"failed: {reason}", *[""] * (width - 2)])
    return found


def table(result: ComparisonResult) -> str:
    """The comparison as Markdown: what it says, the table, and what is needed to read it and to make it again."""
    titles = header(result)
    text = [
        *(f"* {sentence}" for sentence in findings(result)),
        "",
        f"| {' | '.join(titles)} |",
        f"|---|{'---:|' * (len(titles) - 1)}",
        *(f"| {' | '.join(_cell(cell) for cell in cells)} |" for cells in lines(result)),
        "",
        legend(result),
        "",
        f"Command: `{result.command}`",
        "",
        f"{result.hardware}; " + ", ".join(f"{name} {number}" for name, number in result.versions.items()),
    ]
    return "\n".join(text)


def legend(result: ComparisonResult) -> str:
    """How the table is to be read."""
    shared = result.settings
    encoder = ", ".join(f"{key} {value}" for key, value in shared["encoder"].items())
    items = ", ".join(f"{number} {split}" for split, number in result.items["num_items"].items())
    text = (
        f"{shared['data']} ({items} items) at {shared['image_size']} pixels, batches of {shared['batch_size']}; one "
        f"encoder for all ({encoder}); a budget of {shared['budget']} for each run, which is its objective's small "
        "recipe but for that. Minutes are those of the training loop. An encoder pass is one whole image forward "
        "through an encoder or its teacher; small views and masked images count for their share. Effective rank and "
        "feature std are of the frozen features of the test items."
    )
    if result.methods:
        text += (
            f" Label {shared['label']} ({result.items['num_classes']} classes). Scores are offline, of finished and "
            "frozen encoders on the test items, ± the standard deviation over seeds; layer and settings of each probe "
            f"were chosen on validation. Layers are those of the {' / '.join(result.methods)}, seed by seed."
        )
    if not result.items["has_test_split"]:
        text += (
            " The data have no test split: the items that encoders are judged on were held out for their labels, "
            "and part of them were trained on without."
        )
    if result.left_out:
        told = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in result.left_out.items())
        text += f" Left out, since the encoder does not suit them: {told}."
    return text


def findings(result: ComparisonResult) -> list[str]:
    """What suits the data best, as far as seeds and test items allow to say; the sentences follow from the numbers."""
    if not result.finished:
        return ["No run was finished."]
    if not result.methods:
        return ["Without labels nothing is known of the features but whether they have collapsed and how they lie on "
                "a map: name a column with --label to learn which objective suits the data."]  # fmt: skip
    method = result.methods[0]
    rows = [row.row(method) for row in ranked(result)]
    best, others = rows[0], against(rows[1:], rows[0], SCORE)
    name = SCORE.replace("_", " ")
    sentence = f"{best.features} has the highest {name} of the {method}, {interval(best)}"
    if others.alike:
        sentence += f", but is not told apart from {told(others.alike)}"
    elif others.below:
        sentence += ", more than all others by more than the uncertainty of the difference"
    found = [f"{sentence}."]
    if others.below and others.alike:
        found.append(f"Behind it by more than the uncertainty of the difference: {told(others.below)}.")
    found += [against_baseline(rows, row) for row in result.baselines if row.method == method]
    if min(len(row.runs) for row in rows) == 1:
        found.append("Where there is one seed, an interval is of the test items alone: another seed may change the "
                     "order.")  # fmt: skip
    return found


def against_baseline(rows: Sequence[Row], baseline: Row) -> str:
    """Which objectives are better than features that nobody had to learn."""
    standing = against(rows, baseline, SCORE)
    parts = {"above": standing.above, "not told apart": standing.alike, "below": standing.below}
    groups = [f"{where} {told(group) if where != 'above' or group else 'none'}" for where, group in parts.items()
              if group or where == "above"]  # fmt: skip
    return f"Against {baseline.features} ({interval(baseline)}): {'; '.join(groups)}."


def interval(row: Row) -> str:
    """A mean with its 95 % interval."""
    mean, half = row.mean(SCORE), half_width(row, SCORE)
    return f"{mean:.3f} (95 % interval {max(0.0, mean - half):.3f} to {min(1.0, mean + half):.3f})"


def told(rows: Sequence[Row]) -> str:
    """Rows with their means."""
    return ", ".join(f"{row.features} {row.mean(SCORE):.3f}" for row in rows)


def _measured(rows: Sequence[Row], title: str) -> list[str]:
    scores = [_mean_and_spread(row, score) for row in rows for score in SHOWN]
    layers = [" / ".join(_layers(row) for row in rows)] if rows else []
    return [title, *scores, *layers]


def _mean_and_spread(row: Row, score: str) -> str:
    spread = row.spread(score)
    return f"{row.mean(score):.3f}" if spread is None else f"{row.mean(score):.3f} ± {spread:.3f}"


def _layers(row: Row) -> str:
    return ",".join("–" if run.layer is None else str(run.layer) for run in row.runs)


def _costs(row: ComparedObjective) -> list[str]:
    failed = f" ({len(row.failures)} failed)" if row.failures else ""
    return [
        f"{row.budget['max_steps']:,}",
        f"{row.mean_cost(SECONDS) / 60:.1f}",
        f"{row.mean_cost(PASSES):,.0f}",
        *_signs({name: row.mean_collapse(name) for name in ("effective_rank", "feature_std")}),
        f"{len(row.seeds)}{failed}",
    ]


def _signs(collapse: dict[str, float]) -> list[str]:
    return [f"{collapse['effective_rank']:.1f}", f"{collapse['feature_std']:.4f}"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

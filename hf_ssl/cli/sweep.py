"""`hf-ssl sweep`: which tuner for a task."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ssl.cli import figures
from hf_ssl.cli.finetune import PREFIX, read_fine_tuning, tuners
from hf_ssl.cli.options import listed, settings_among
from hf_ssl.cli.run_file import command_line, recipe_names
from hf_ssl.errors import InputError, writing
from hf_ssl.trainers.sweep import Compared, Sweep, primary_metric, sweep

TUNERS = ("none", "lora", "pfeiffer", "prefix", "prompt", "bitfit")
TABLE_FILE, PLOT_FILE = "sweep.md", "sweep.svg"

DESCRIPTION = """\
Fine-tune an encoder for one task with several tuners and seeds, and compare them: scores on validation and test (mean
and standard deviation over the seeds), trained parameters and size on disk, as a table and a plot.
"""

EPILOG = f"""\
examples:
  hf-ssl sweep finetune_glosses_lora
  hf-ssl sweep finetune_glosses_lora --tuners none lora houlsby prefix --seeds 1 2 3 4 5
  hf-ssl sweep model.encoder=roberta-base model.task=text-classification data.path=reviews data.label_column=label \\
      --learning-rates 1e-4 5e-4 2e-3 training.num_train_epochs=3 training.output_dir=runs/reviews_sweep

tuners:
{tuners()}

The recipe and the settings are those of `hf-ssl finetune`; model.tuner_config is for the recipe's own model.tuner, the
other tuners have their defaults. With --learning-rates each tuner is trained with each of them and the first seed, and
keeps the one with the best score on validation. The output folder (training.output_dir; runs/<recipe>_sweep unless it
is given) then holds <tuner>/lr-<rate>/seed-<seed> with what `hf-ssl finetune` leaves, {TABLE_FILE}, {PLOT_FILE} and
sweep.json. Started again, the same command keeps what is finished and continues what is not; a run that fails does not
end the others.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "sweep",
        help="compare tuners on one task: score against trained parameters",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipes = ", ".join(name for name in recipe_names() if name.startswith(PREFIX))
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="recipe | section.key=value",
        help=f"a YAML file or one of: {recipes}; then settings, which win over it",
    )
    parser.add_argument(
        "--tuners",
        nargs="+",
        default=list(TUNERS),
        metavar="NAME",
        help=f"what to compare; none is full fine-tuning (default: {' '.join(TUNERS)})",
    )
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"], metavar="N", help="default: 1 2 3")
    parser.add_argument(
        "--learning-rates",
        nargs="+",
        default=[],
        metavar="RATE",
        help="to choose from for each tuner, on validation (default: training.learning_rate for all)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare, and write the table and the plot."""
    settings = [*args.overrides, *settings_among([*args.tuners, *args.seeds, *args.learning_rates])]
    recipe, *overrides = [None, *settings] if "=" in settings[0] else settings
    folder = f"runs/{Path(recipe).stem}_sweep" if recipe else "runs/sweep"
    plan = Sweep(
        run=read_fine_tuning(recipe, [f"training.output_dir={folder}", *overrides]),
        tuners=listed(args.tuners, "--tuners", str),
        seeds=listed(args.seeds, "--seeds", int),
        learning_rates=listed(args.learning_rates, "--learning-rates", float),
    )
    compared = sweep(plan, command=command_line())
    finished = [row for row in compared if row.scores]
    failures = {folder: reason for row in compared for folder, reason in row.failures.items()}
    if finished and plan.run.training.process_index == 0:
        output = Path(plan.run.training.output_dir)
        with writing(output):
            (output / TABLE_FILE).write_text(table(compared) + "\n", encoding="utf-8")
            (output / PLOT_FILE).write_text(plot(finished), encoding="utf-8")
        print(f"{table(compared)}\n\n{TABLE_FILE}, {PLOT_FILE} and sweep.json are in {output}.")
    if failures:
        told = "; ".join(f"{folder} ({reason.rstrip('.')})" for folder, reason in failures.items())
        raise InputError(f"{len(failures)} runs failed: {told}; start the same command again to try them again.")


def table(compared: Sequence[Compared]) -> str:
    """The tuners as a Markdown table, those without a finished run included."""
    first = next(row for row in compared if row.scores)
    columns = [(split, metric) for split, metrics in first.scores.items() for metric in metrics]
    header = ["tuner", *(f"{metric}, {split}" for split, metric in columns)]
    header += ["trained parameters", "share", "size on disk", "learning rate", "seeds"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for row in compared:
        cells = _cells(row, columns) if row.scores else ["failed", *[""] * (len(header) - 2)]
        lines.append(f"| {' | '.join([row.tuner, *cells])} |")
    return "\n".join(lines)


def _cells(row: Compared, columns: Sequence[tuple[str, str]]) -> list[str]:
    scores = [_mean_and_spread(row, split, metric) for split, metric in columns]
    num_seeds = len(next(iter(next(iter(row.scores.values())).values())))
    return [
        *scores,
        f"{row.num_trained_parameters:,}",
        f"{row.num_trained_parameters / row.num_parameters:.2%}",
        f"{row.size_on_disk / 1e6:,.2f} MB",
        f"{row.learning_rate:g}",
        str(num_seeds),
    ]


def _mean_and_spread(row: Compared, split: str, metric: str) -> str:
    mean, spread = row.mean(split, metric), row.spread(split, metric)
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def plot(finished: Sequence[Compared]) -> str:
    """Score against trained parameters, as SVG: on the test items, or on validation where there are none."""
    metric = primary_metric(finished[0])
    split = list(finished[0].scores)[-1]
    points = [
        (row.tuner, row.num_trained_parameters, row.mean(split, metric), row.spread(split, metric)) for row in finished
    ]
    return figures.score_against_parameters(points, f"{metric.replace('_', ' ')}, {split}")

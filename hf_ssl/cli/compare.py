"""`hf-ssl compare`: which objective suits the data."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from hf_ssl.cli.comparison_page import write_page
from hf_ssl.cli.comparison_plan import IMAGE_OBJECTIVES, read_comparison
from hf_ssl.cli.comparison_words import table
from hf_ssl.cli.evaluate import positive
from hf_ssl.cli.run_file import command_line
from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.comparison import ComparisonResult
from hf_ssl.trainers.comparison import RESULT_FILE, compare

TABLE_FILE, PAGE_FILE = "comparison.md", "comparison.html"

DESCRIPTION = """\
Pretrain the same encoder on the same images with several objectives, at one budget and with several seeds, and compare
the frozen features: linear probe and kNN on test items beside a random initialisation of that encoder and raw pixels,
accuracy against compute, signs of collapse, maps. Leaves a table, a page and all figures.
"""

EPILOG = """\
examples:
  hf-ssl compare --data sample:emoji --label category --budget 300 --objectives simclr,dino,mae
  hf-ssl compare --data my_photos --label label --budget 10m              folders are the classes
  hf-ssl compare --data my_photos --budget 10m --encoder resnet           without labels: collapse and maps only
  hf-ssl compare --data my_photos --label label --budget 2000 --encoder vit encoder.num_hidden_layers=6 \\
      simclr.model.temperature=0.1 mae.training.learning_rate=2e-3 training.fp16=true

What is an objective's own (settings of its loss, augmentation, optimiser, learning rate, schedule) comes from its
recipe for the embedded emoji; lengths in pixels grow with the images. A setting that begins with an objective's name
is for that one, encoder.KEY=VALUE for the encoder, and any other for all of them.

A budget is for each run. Of minutes, a few steps of each objective are measured first; their number is then fixed and
kept, since a schedule has to know its length.

The output folder then holds comparison.html (one page, which needs nothing else), comparison.md, comparison.json and
<objective>/seed-<n> with what `hf-ssl pretrain` leaves. Started again, the same command keeps what is finished and
continues what is not, and more objectives or seeds may be added; an objective that cannot hold the encoder or fails is
reported with its reason, and the others go on.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "compare",
        help="compare objectives on your images: the same encoder, data and budget",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="setting=value", help="see below")
    parser.add_argument("--data", required=True, metavar="PATH", help="sample:<name>, a folder, a file or a Hub name")
    parser.add_argument(
        "--budget", required=True, metavar="STEPS|MINUTESm", help="of each run: optimiser steps (300) or minutes (10m)"
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="NAME",
        help=f"of: {', '.join(IMAGE_OBJECTIVES)} (default: all that the encoder suits)",
    )
    parser.add_argument("--label", metavar="COLUMN", help="the column that frozen features are probed for")
    parser.add_argument(
        "--encoder",
        default="vit",
        metavar="TYPE|FILE",
        help="vit (default) or resnet, the small ones of the recipes; another model_type of transformers; or a run "
        "file, whose model.encoder_config is taken",
    )
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"], metavar="N", help="default: 1 2 3")
    parser.add_argument(
        "--image-size", type=positive, metavar="PIXELS", help="side (default: the data's, at most 64 pixels)"
    )
    parser.add_argument("--batch-size", type=positive, default=128, metavar="N", help="of each step (default: 128)")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="folder (default: runs/compare)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare, and write the table and the page."""
    plan = read_comparison(args)
    try:
        result = compare(plan, command=command_line(), report=partial(write_report, plan.output))
    except KeyboardInterrupt:
        print("\nStopped. The same command keeps what is finished and goes on.", file=sys.stderr)
        sys.exit(130)
    if result.finished:
        names = ", ".join((TABLE_FILE, PAGE_FILE, RESULT_FILE))
        print(f"{table(result)}\n\n{names} are in {plan.output}.")
    raise_failures(result)


def write_report(output: Path, result: ComparisonResult) -> None:
    """The table and the page."""
    with writing(output):
        (output / TABLE_FILE).write_text(table(result) + "\n", encoding="utf-8")
        write_page(output / PAGE_FILE, result)


def raise_failures(result: ComparisonResult) -> None:
    """Say what failed, once all else is done; an objective that cannot hold the encoder is a result, and no failure.

    Raises:
        InputError: for runs that failed, or when nothing was finished.
    """
    unsuited = {row.name for row in result.objectives if not row.is_suited}
    failures = {
        name: reason for name, reason in result.failures.items() if name not in unsuited or not result.finished
    }
    if failures:
        told = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in failures.items())
        raise InputError(f"{len(failures)} failed: {told}; start the same command again to try them again.")

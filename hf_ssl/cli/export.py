"""`hf-ssl export`: a plain encoder from a pretraining checkpoint."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.hub.export import export_run
from hf_ssl.hub.loading import loading_lines

EPILOG = """\
A finished run has its encoder in <output>/encoder already; this makes one of any checkpoint.

examples:
  hf-ssl export runs/simclr_emoji/checkpoint-500 encoders/simclr_500
  hf-ssl export runs/simclr_emoji encoders/simclr
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "export",
        help="make a plain transformers encoder of a pretraining checkpoint",
        description="Write the encoder of a pretraining checkpoint, with its preprocessor, as a plain transformers "
        "checkpoint that loads where hf_ssl is not installed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a checkpoint-N or pretraining folder, or a run's output folder")
    parser.add_argument("destination", type=Path, help="the folder to write; it must be new or empty")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Export, and say how it is loaded."""
    path = export_run(args.source, args.destination)
    print(f"The encoder is in {path}. To load it:\n")
    print(loading_lines(path, str(path)))

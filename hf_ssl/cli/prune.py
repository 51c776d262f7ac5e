"""`hf-ssl prune`: an encoder with fewer layers."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.hub.loading import loading_lines
from hf_ssl.trainers.pruning import prune

EPILOG = """\
examples:
  hf-ssl prune runs/hubert_base/encoder --keep every_other --output encoders/hubert_6
  hf-ssl prune bert-base-uncased --keep 0,2,4,7,9,11 --output encoders/bert_6

Layers are counted from 0. An encoder that was trained with LayerDrop keeps most of what it knows; of others it is a
start to be trained further: `hf-ssl distill`, `hf-ssl finetune` or `hf-ssl pretrain ... model.from_encoder=...`.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "prune",
        help="drop layers of an encoder",
        description="Write an encoder that has only some of another's layers, with its preprocessor.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("encoder", help="an encoder's folder or name on the Hub")
    parser.add_argument("--keep", required=True, metavar="LAYERS", help="every_other, or the layers: 0,2,4")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write; it must be new or empty")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prune, and say how the encoder is loaded."""
    path, kept, num_layers = prune(args.encoder, args.keep, args.output)
    print(f"The encoder with the layers {kept} of 0 … {num_layers - 1} is in {path}. To load it:\n")
    print(loading_lines(path, str(path)))

"""`hf-ssl evaluate`: how good the frozen features of an encoder are."""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml

from hf_ssl.cli.run_file import build, command_line, read_run
from hf_ssl.data.arguments import DATA_ARGUMENTS
from hf_ssl.evaluation.encoders import load_encoder, modality_of
from hf_ssl.evaluation.evaluate import SEEDS, evaluate_encoder
from hf_ssl.modeling.blocks.pooling import POOLINGS
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.measuring import record_evaluation, run_of

DESCRIPTION = """\
Offline evaluation: fit a linear probe and weighted nearest neighbours (k=20, T=0.07) on the frozen features of a
finished encoder, and print their scores on the test items beside those of untrained encoders of the same config and of
raw features (pixels, log-mel statistics, TF-IDF). Penalty and layer are chosen on the validation items. The results of
the encoder of a pretraining run are also added to that run's metrics.json and card.
"""

EPILOG = """\
examples:
  hf-ssl evaluate runs/simclr/encoder --data sample:emoji --label category
  hf-ssl evaluate facebook/hubert-base-ls960 --data sample:speech --label language --layers all
  hf-ssl evaluate runs/mae/encoder --data my_images --label label --train-fraction .01 .1 1 --seeds 0 1 2 3 4
  hf-ssl evaluate ./encoder --data my_images --label label --set data.max_train_items=2000 --output results.json
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "evaluate",
        help="linear probe and kNN on frozen features, beside random and raw features",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("encoder", help="folder or Hub name of an encoder, e.g. <out>/encoder of a pretraining run")
    parser.add_argument("--data", required=True, metavar="PATH", help="sample:<name>, a folder, a file or a Hub name")
    parser.add_argument("--label", required=True, metavar="COLUMN", help="the column to predict")
    parser.add_argument(
        "--layers", type=layers_of, default="last", help="'last' (default), 'all', or numbers such as 0,6,12"
    )
    parser.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the hidden states (default: mean)")
    parser.add_argument(
        "--train-fraction",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="SHARE",
        help="low-shot: shares of each class whose labels are known, e.g. .01 .1 1; one block of rows each (default: "
        "1); those of a smaller share are drawn once a seed",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=seed,
        default=list(SEEDS),
        metavar="N",
        help="of the untrained encoders, and of what is drawn of a share (default: 0 1 2)",
    )
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="items at once (default: 32)")
    parser.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that decode (default: 0)")
    parser.add_argument("--output", metavar="FILE", help="also write everything measured as JSON")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="data.KEY=VALUE",
        help="further data settings, e.g. data.image_column=picture data.max_train_items=2000",
    )
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def seed(text: str) -> int:
    """A number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return int(text)


def layers_of(text: str) -> str | list[int]:
    """`last`, `all` or a list of numbers."""
    if text in ("last", "all"):
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'last', 'all' or numbers such as 0,6,12") from error


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the table."""
    encoder, processor = load_encoder(args.encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {
        "path": args.data,
        "label_column": args.label,
        **read_run(None, args.overrides, ["data"]).get("data", {}),
    }
    result = evaluate_encoder(
        encoder.to(device),
        build(DATA_ARGUMENTS[modality_of(encoder)], settings, "data"),
        processor=processor,
        layers=args.layers,
        pooling=args.pooling,
        seeds=args.seeds,
        train_fractions=args.train_fraction,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    result.encoder, result.command = args.encoder, command_line()
    if args.output is not None:
        result.save(args.output)
    print(result.to_markdown())
    run_dir = run_of(args.encoder)
    if run_dir is not None:
        record_evaluation(run_dir, result, seed=seed_of(run_dir))
        print(f"\nAdded to {run_dir / 'metrics.json'} and to the card of the run.")


def seed_of(run_dir: Path) -> int:
    """The seed of a pretraining run."""
    training = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8"))["training"]
    return training.get("seed", SSLTrainingArguments.seed)

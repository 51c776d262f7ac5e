"""`hf-ssl cluster`: turn recordings into the discrete units that HuBERT predicts."""

import argparse
import json
from typing import Any

from hf_ssl.cli.run_file import build, read_run
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.trainers.clustering import REPORT_FILE, ClusteringArguments, cluster

DESCRIPTION = """\
Cluster the frames of recordings: one codebook is fitted by k-means on the training split and gives every split its
units. What is finished stays on disk: the same command started again continues an interrupted run.
"""

EPILOG = """\
examples:
  hf-ssl cluster --data sample:speech --output units/it1 data.sampling_rate=8000
      HuBERT's first iteration: 100 units of MFCCs
  hf-ssl pretrain hubert_asterisk data.units=units/it1
      train on them; leaves runs/hubert_asterisk/encoder
  hf-ssl cluster --data sample:speech --features runs/hubert_asterisk/encoder --layer 2 --clusters 200 \\
                 --output units/it2 data.sampling_rate=8000
      the second iteration: what layer 2 has learned (of HuBERT BASE it is layer 6, and 500 clusters)
  hf-ssl pretrain hubert_asterisk_iterations
      both iterations with their units in one command
  hf-ssl cluster --data my_recordings --fit-fraction 0.1 --reference speaker --output units/mine

The output folder then holds units.parquet and units.json (give the folder as data.units), codebook.safetensors and
report.json. With --reference the report says how much the units tell of that column, in purity, cluster purity and
PNMI (the share of the label's entropy that the unit removes).
"""

MEASURES = {
    "num_recordings": "recordings",
    "num_frames": "frames",
    "inertia": "inertia",
    "perplexity": "units in use",
    "purity": "purity",
    "cluster_purity": "cluster purity",
    "pnmi": "PNMI",
}
"""Columns of the printed table, as far as they were measured."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "cluster",
        help="turn recordings into the units that HuBERT predicts",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="sample:<name>, a folder, a file or a Hub name")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the units are written")
    parser.add_argument(
        "--features",
        default=ClusteringArguments.features,
        metavar="NAME",
        help="mfcc (default), log_mel, or the folder or Hub name of a waveform encoder",
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="of the encoder: N is the output of its N-th Transformer layer, 0 the input of the first",
    )
    parser.add_argument(
        "--clusters",
        type=int,
        default=ClusteringArguments.num_clusters,
        metavar="K",
        help="number of units (default: %(default)s)",
    )
    parser.add_argument(
        "--fit-fraction",
        type=float,
        default=ClusteringArguments.fit_fraction,
        metavar="SHARE",
        help="of the training recordings that the codebook is fitted on and whose features are stored (default: 1)",
    )
    parser.add_argument("--reference", metavar="COLUMN", help="labels that the report compares the units with")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "overrides", nargs="*", metavar="data.KEY=VALUE", help="further data settings, e.g. data.audio_column=speech"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Cluster and print the report."""
    settings = {"path": args.data, **read_run(None, args.overrides, ["data"]).get("data", {})}
    arguments = ClusteringArguments(
        features=args.features,
        layer=args.layer,
        num_clusters=args.clusters,
        fit_fraction=args.fit_fraction,
        reference=args.reference,
    )
    folder = cluster(build(SpeechDataArguments, settings, "data"), arguments, args.output, seed=args.seed)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    print(table(report["splits"]))
    print(f"\n{args.clusters} units at {report['label_rate']:g} Hz are in {folder}; train with data.units={folder}")


def table(splits: dict[str, dict[str, float | None]]) -> str:
    """The measures of every split as a Markdown table."""
    measured = [name for name in MEASURES if name in next(iter(splits.values()))]
    lines = [["split", *(MEASURES[name] for name in measured)]]
    lines.append(["---", *("---:" for _ in measured)])
    for split, values in splits.items():
        lines.append([split, *(_number(values[name]) for name in measured)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4g}"

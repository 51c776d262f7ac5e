"""Fetches the telephone prompts of the Asterisk project in five languages and writes them as data sets.

    python benchmarks/asterisk.py [--output runs/asterisk] [--packages FOLDER]

Debian's packages of them (version 1.6.1-1, checked by SHA-256, 100 MB) are downloaded by `apt-get`, after
`apt-get update`, and unpacked by `dpkg`; both are needed. What is written, as parquet, at 8 kHz:

    en/          English, one speaker, with transcripts: train, validation and test
    en_10min/    the same validation and test, and about 10 minutes of train
    unlabelled/  all of en's train and the prompts without a usable transcript, and all prompts in Spanish, French,
                 Italian and Russian: for pretraining; validation is en's
    en_rest/     the English of unlabelled/ that en_10min has no transcript of: for self-training
    text/        the transcripts of each train split and of validation, a sentence a line: for language models

All the English there is are 25 minutes, so there is no 60-minute split: `en` is what there is. A sentence is in one
split only, its repetitions with it; which one, the hash of its words says. A transcript is unusable if it says numbers
of several digits or the names of letters, which are not spoken as they are written, and a recording if it is
longer than 32 s.

The recordings are under CC-BY-SA-3.0 (en, es, fr) and CC-BY-3.0 (it, ru): they are not part of this repository, and
what is made of them is to be passed on under the same terms. The packages' copyright files are copied to `licences/`.
"""

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

import soundfile
from datasets import Audio, Dataset, Features, Value

from hf_ssl.data.holdout import name_hash
from hf_ssl.data.samples.build_speech import MIN_SECONDS, asterisk_prompts, group_of
from hf_ssl.data.samples.packages import PACKAGES, Package, unpack_packages
from hf_ssl.data.samples.splits import assign_splits
from hf_ssl.data.transcripts import normalise

VERSION = "1.6.1-1"
VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
FURTHER_CHECKSUMS = {
    "en-wav": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "es-wav": "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
    "es": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "fr-wav": "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
    "fr": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
}
PROMPTS = [
    *(package for package in PACKAGES if package.name.startswith("asterisk-core-sounds-")),
    *(Package("debian", f"asterisk-core-sounds-{n}", VERSION, digest) for n, digest in FURTHER_CHECKSUMS.items()),
]
SHARE = 0.15  # of validation and of test each
LABELLED_SECONDS = 600
MAX_SECONDS = 32.0
DIGITS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
KEYS = {"*": "star", "#": "pound"}
FEATURES = Features(
    {
        "audio": Audio(decode=False),
        "text": Value("string"),
        "language": Value("string"),
        "group": Value("string"),
        "key": Value("string"),
        "duration": Value("float32"),
    }
)

Row = dict[str, Any]


def as_spoken(transcript: str) -> str | None:
    """An English transcript in the words that are spoken, normalised; `None` where its letters do not say them."""
    if re.search(r"\d{2}|\d\.\d", transcript):
        return None  # 500 may be "five hundred" or "five oh oh"
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", transcript)
    text = normalise(re.sub(r"[*#]", lambda key: f" {KEYS[key[0]]} ", text))
    by_name = [word for word in text.split() if len(word) == 1 and word not in "ai"]
    return None if by_name or text in ("", "a", "i") else text


def read_language(packages: Path, language: str) -> list[Row]:
    """All recordings of a language that are long enough; `text` is `None` where it is not usable."""
    rows = []
    for key, path, transcript in asterisk_prompts(packages, language, VOICES[language]):
        seconds = soundfile.info(path).duration
        if seconds < MIN_SECONDS or key.startswith("silence/"):
            continue
        text = None if transcript is None or seconds > MAX_SECONDS else transcript
        rows.append(
            {
                "audio": {"bytes": path.read_bytes(), "path": f"{language}/{key}.wav"},
                "text": as_spoken(text) if text and language == "en" else text,
                "language": language,
                "group": group_of(key),
                "key": key,
                "duration": seconds,
            }
        )
    return sorted(rows, key=lambda row: name_hash(row["audio"]["path"]))  # an order without meaning


def divide(rows: list[Row]) -> dict[str, list[Row]]:
    """The labelled rows by split: one a sentence, every group of prompts in the same proportion."""
    groups = {row["text"]: row["group"] for row in rows}
    splits = assign_splits(groups, SHARE)
    return {name: [row for row in rows if splits[row["text"]] == name] for name in ("train", "validation", "test")}


def first_seconds(rows: list[Row], seconds: float) -> list[Row]:
    """The first rows that last so long together."""
    chosen, total = [], 0.0
    for row in rows:
        if total >= seconds:
            break
        chosen.append(row)
        total += row["duration"]
    return chosen


def write(folder: Path, splits: dict[str, list[Row]]) -> None:
    """One parquet file a split, and what came out on standard output."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        Dataset.from_list(rows).cast(FEATURES).to_parquet(folder / f"{name}.parquet")
        words = sum(len((row["text"] or "").split()) for row in rows)
        minutes = sum(row["duration"] for row in rows) / 60
        print(f"{folder / name}: {len(rows)} recordings, {minutes:.1f} min, {words} words")


def write_text(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")


def fetch(output: Path, packages: Path) -> None:
    """Download what is not yet in the folder of packages, read and write everything."""
    packages.mkdir(parents=True, exist_ok=True)
    unpack_packages(packages, PROMPTS)
    rows = {language: read_language(packages, language) for language in VOICES}
    english = divide([row for row in rows["en"] if row["text"]])
    ten_minutes = first_seconds(english["train"], LABELLED_SECONDS)
    tested = {row["key"] for split in ("validation", "test") for row in english[split]}
    others = [row for language in VOICES if language != "en" for row in rows[language]]
    unlabelled = [*(row for row in rows["en"] if row["key"] not in tested), *others]
    write(output / "en", english)
    write(output / "en_10min", {**english, "train": ten_minutes})
    write(output / "unlabelled", {"train": unlabelled, "validation": english["validation"]})
    labelled = {row["key"] for row in ten_minutes}
    rest = [row for row in unlabelled if row["language"] == "en" and row["key"] not in labelled]
    write(output / "en_rest", {"train": rest})
    for name, chosen in (
        ("train", english["train"]),
        ("train_10min", ten_minutes),
        ("validation", english["validation"]),
    ):
        write_text(output / "text" / f"{name}.txt", chosen)
    for package in PROMPTS:
        (copyright_file,) = (packages / package.name).rglob("copyright")
        (output / "licences").mkdir(exist_ok=True)
        shutil.copy(copyright_file, output / "licences" / f"{package.name}.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/asterisk"), help="folder (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="folder for the downloads (default: packages/ in the output)")
    args = parser.parse_args()
    fetch(args.output, args.packages or args.output / "packages")


if __name__ == "__main__":
    main()

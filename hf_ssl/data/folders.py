"""A folder of one's own files as data: images, recordings or texts, and what names and folders say about them."""

import csv
import glob
import io
import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, Image
from datasets.fingerprint import Hasher

from hf_ssl.data.holdout import name_hash
from hf_ssl.errors import InputError

logger = logging.getLogger(__name__)

EXTENSIONS = {
    "vision": {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"},
    "speech": {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"},
    "text": {".txt"},
}
COLUMNS = {"vision": "image", "speech": "audio", "text": "text"}
METADATA_FILES = ("metadata.csv", "transcripts.tsv")
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def read_folder(root: Path, modality: str, on_error: str = "raise") -> dict[str, Dataset]:
    """Reads a folder with files of one modality, at any depth.

    * Sub-folders named `train`, `validation` (`valid`, `val`, `dev`) and `test` are the splits. Without them all is
      training data.
    * The next folder on a file's path is its class (column `label`, a string), if every file of the split is in one.
    * `metadata.csv` (with a column `file_name`) and `transcripts.tsv` (file, tab, transcript; no header) beside the
      files or in the root add columns; their file names are relative to where they are.
    * A text file is one document.

    Files come in the order of the hashes of their names, so that the first ones are a fair sample.

    Args:
        root (`Path`): the folder.
        modality (`str`): `"vision"`, `"speech"` or `"text"`.
        on_error (`str`): whether a text file that is no UTF-8 raises or is skipped. Images and recordings are not
        opened.

    Returns:
        `dict[str, Dataset]`: per split, with the columns `image`, `audio` (both undecoded) or `text`; `file`, the path
            within `root`; and perhaps `label` and what the metadata adds.

    Raises:
        InputError: when the folder has no file of the modality, or a metadata file does not fit the files.
    """
    found = list_files(root)
    names = sorted((name for name in found if Path(name).suffix.lower() in EXTENSIONS[modality]), key=name_hash)
    if not names:
        raise InputError(f"{root} holds no {_wanted(modality)}; {_instead(found)}.")
    splits = _by_split(names, root)
    if "train" not in splits:
        raise InputError(
            f"{root} has folders {', '.join(splits)} but none called train; add it or give another folder."
        )
    metadata = _read_metadata(root, found)
    return {split: _to_dataset(root, names, modality, metadata, on_error) for split, names in splits.items()}


def list_files(root: Path) -> list[str]:
    """The files in a folder at any depth, also behind links, but not the hidden ones; paths relative to the folder."""
    return [name for name in glob.glob("**/*", root_dir=root, recursive=True) if (root / name).is_file()]


def read_documents(file: Path) -> Dataset:
    """Reads one text file as documents separated by blank lines, each a row; a line is a sentence (column `text`).

    Raises:
        InputError: when the file is no UTF-8 text.
    """
    blocks: list[list[str]] = [[]]
    for line in _read_text(file).splitlines():
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return Dataset.from_dict({"text": ["\n".join(block) for block in blocks if block]})


def _by_split(names: list[str], root: Path) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = defaultdict(list)
    for name in names:
        splits[SPLIT_FOLDERS.get(Path(name).parts[0].lower(), "")].append(name)
    outside = splits.pop("", [])
    if not splits:
        return {"train": outside}
    if outside:
        logger.warning("%s: %d files outside the folders of the splits are left out.", root, len(outside))
    return dict(splits)


def _to_dataset(
    root: Path, names: list[str], modality: str, metadata: dict[str, dict[str, str]], on_error: str
) -> Dataset:
    texts: dict[str, str] = {}
    if modality == "text":
        names = [name for name in names if _read_into(texts, root / name, name, on_error)]
    columns: dict[str, list[Any]] = {
        COLUMNS[modality]: [texts[name] if modality == "text" else str(root / name) for name in names],
        "file": names,
    }
    labels = [_label(name) for name in names]
    if all(label is not None for label in labels):
        columns["label"] = labels
    for column in dict.fromkeys(key for row in metadata.values() for key in row):
        columns[column] = [metadata.get(name, {}).get(column) for name in names]
    # The fingerprint follows the files, so that what is computed of them is computed anew when they change.
    stats = [(root / name).stat() for name in names]
    fingerprint = Hasher.hash([columns, [(stat.st_size, stat.st_mtime_ns) for stat in stats]])
    dataset = Dataset(Dataset.from_dict(columns).data, fingerprint=fingerprint)
    if modality == "text":
        return dataset
    feature = Image(decode=False) if modality == "vision" else Audio(decode=False)
    return dataset.cast_column(COLUMNS[modality], feature)


def _label(name: str) -> str | None:
    """The folder below the split's on the file's path."""
    folders = Path(name).parts[:-1]
    below = folders[1:] if folders and folders[0].lower() in SPLIT_FOLDERS else folders
    return below[0] if below else None


def _read_metadata(root: Path, found: list[str]) -> dict[str, dict[str, str]]:
    """What the metadata files say about each file of `found`."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for source in (name for name in found if Path(name).name in METADATA_FILES):
        lines = io.StringIO(_read_text(root / source), newline="")
        if source.endswith(".tsv"):
            entries = [
                {"file_name": line[0], "text": line[1]}
                for line in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
                if len(line) == 2
            ]
        else:
            entries = list(csv.DictReader(lines))
        for number, entry in enumerate(entries, start=2):
            if None in entry:
                raise InputError(
                    f"{root / source}, row {number}, has more values than the header has columns; put quotes around "
                    "values with commas."
                )
            if "file_name" not in entry:
                raise InputError(
                    f"{root / source} has no column file_name; add it, with the name of the file of each row."
                )
            name = (Path(source).parent / entry.pop("file_name")).as_posix()
            if not (root / name).is_file():
                raise InputError(
                    f"{root / source} names {name}, which does not exist; correct the name or remove the row."
                )
            rows[name].update(entry)
    return rows


def _read_into(texts: dict[str, str], path: Path, name: str, on_error: str) -> bool:
    """Reads a text file into `texts[name]`; whether that worked."""
    try:
        texts[name] = _read_text(path)
    except InputError as error:
        if on_error == "raise":
            raise
        logger.warning("Left out: %s", error)
        return False
    return True


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert the file.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error


def _wanted(modality: str) -> str:
    noun = {"vision": "images", "speech": "recordings", "text": "texts"}[modality]
    return f"{noun} ({', '.join(sorted(EXTENSIONS[modality]))})"


def _instead(found: list[str]) -> str:
    suffixes = Counter(Path(name).suffix.lower() or "(no suffix)" for name in found)
    if not suffixes:
        return "it is empty"
    held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(3))
    return f"it holds {held}, so choose another folder or an objective of another modality"

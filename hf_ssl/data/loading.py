"""From the `data` section's path to splits with known columns."""

import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.columns import Split, name_columns
from hf_ssl.data.folders import EXTENSIONS, METADATA_FILES, list_files, read_documents, read_folder
from hf_ssl.data.holdout import held_out
from hf_ssl.data.labels import encode_labels, rename_stream_labels
from hf_ssl.errors import InputError, unknown_name

logger = logging.getLogger(__name__)

SAMPLES = Path(__file__).parent / "samples"
TABLES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
STREAM_VALIDATION_ITEMS = 1_000


def load_splits(args: DataArguments, modality: str) -> DatasetDict | IterableDatasetDict:
    """Loads the data of a run.

    `args.path` is `sample:<name>` for the embedded data; a folder of one's own images, recordings or texts (see
    [`read_folder`]); a text file, whose documents are separated by blank lines; a folder or file of parquet, CSV or
    JSON, where paths of images and recordings are relative to the file; or the name of a data set on the Hub.

    Where there is no validation split although `args.validation_split` has a name, about a tenth of the training items
    (at most about 10,000) is held out, always the same ones: chosen by the hash of a file's name or a row's number. Of
    a stream it is the first 1,000 items.

    Args:
        args ([`DataArguments`]): of the modality.
        modality (`str`): `"vision"`, `"speech"` or `"text"`.

    Returns:
        `DatasetDict` (`IterableDatasetDict` if `args.streaming`, except for folders and text files of one's own, which
            are read as they are needed anyway): `train` and, as far as there are any, `validation` and `test`.
            Columns: `image` or `audio`, undecoded (`bytes` and `path`), or `text`; with `args.label_column` also
            `label`, a `ClassLabel` with the same classes in every split; for speech `text`, if there are transcripts;
            and what else the data has.

    Raises:
        InputError: when a path, sample, split or column does not exist, the data cannot be read, or a label is missing
            or not among those of the training split.
    """
    loaded = _load(args, modality)
    container = IterableDatasetDict if isinstance(loaded["train"], IterableDataset) else DatasetDict
    splits = container({name: name_columns(split, args, modality) for name, split in loaded.items()})
    if container is DatasetDict and len(splits["train"]) == 0:
        raise InputError(f"{args.path} has no training items; check what is in it.")
    if args.label_column is not None:
        encode = encode_labels if container is DatasetDict else rename_stream_labels
        splits = encode(splits, args.label_column)
    if "validation" not in splits and args.validation_split is not None:
        splits = container({**splits, **_hold_out(splits["train"])})
    if args.max_train_items is not None:
        splits["train"] = splits["train"].take(args.max_train_items)
    return splits


def _load(args: DataArguments, modality: str) -> dict[str, Split]:
    """The splits as they are, under the names `train`, `validation` and `test`."""
    if args.path.startswith("sample:"):
        return _choose(_load_sample(args.path.removeprefix("sample:"), args.streaming), args)
    local = Path(args.path).expanduser()
    if local.is_dir():
        return _choose(_load_folder(local, args, modality), args)
    if local.is_file() and local.suffix.lower() in EXTENSIONS["text"]:
        return {"train": read_documents(local)}
    suffix = Path(args.path).suffix.lower()
    if suffix in TABLES and (local.is_file() or "://" in args.path):
        separator = {"sep": "\t"} if suffix == ".tsv" else {}
        files = {args.train_split: str(local) if local.is_file() else args.path}
        return _choose(_load_dataset(args, TABLES[suffix], data_files=files, **separator), args)
    if local.is_file():
        raise InputError(
            f"{args.path} is no table ({', '.join(TABLES)}) and no text (.txt); give one, or a folder of files."
        )
    if args.path.startswith(("/", ".", "~")) or args.path.count("/") > 1:
        raise _missing(local)
    return _choose(_load_dataset(args, args.path, args.name), args)


def _load_folder(folder: Path, args: DataArguments, modality: str) -> dict[str, Split]:
    """Tables or files of one's own: of the two, parquet wins, and otherwise the files (whose labels a CSV may be)."""
    names = [Path(name) for name in list_files(folder) if Path(name).name not in METADATA_FILES]
    suffixes = {name.suffix.lower() for name in names}
    own, tables = suffixes & EXTENSIONS[modality], suffixes & set(TABLES)
    if modality == "text" and own and tables:
        raise InputError(
            f"{folder} holds both texts (.txt) and tables ({', '.join(sorted(tables))}); name the file to use."
        )
    if ".parquet" in tables or (tables and not own):
        return _load_dataset(args, str(folder), args.name)
    return read_folder(folder, modality, args.on_error)


def _load_sample(name: str, streaming: bool) -> dict[str, Split]:
    folder = SAMPLES / name
    files = {path.stem: str(path) for path in sorted(folder.glob("*.parquet"))}
    if not files:
        raise unknown_name("sample", name, (path.parent.name for path in SAMPLES.glob("*/train.parquet")))
    return load_dataset("parquet", data_files=files, streaming=streaming)


def _load_dataset(args: DataArguments, path: str, name: str | None = None, **options: Any) -> dict[str, Split]:
    """`datasets.load_dataset`, with one sentence for what can go wrong."""
    try:
        return load_dataset(path, name, streaming=args.streaming, **options)
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError, HfHubHTTPError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
        what = f"{args.path!r}" if Path(path).exists() or options else f"{args.path!r}, no file or folder here,"
        raise InputError(f"The data {what} cannot be loaded ({reason}); check data.path and data.name.") from error


def _choose(loaded: dict[str, Split], args: DataArguments) -> dict[str, Split]:
    """Finds the splits that the arguments name. A default name may be missing, any other has to exist."""
    chosen = {}
    for role, name in (("train", args.train_split), ("validation", args.validation_split), ("test", args.test_split)):
        if name in loaded:
            chosen[role] = loaded[name]
        elif name is not None and (role == "train" or name != role):
            raise unknown_name(f"split of {args.path} (data.{role}_split)", name, loaded)
    return chosen


def _hold_out(train: Split) -> dict[str, Split]:
    """Divides the training items into training and validation."""
    if isinstance(train, IterableDataset):
        logger.info("No validation split: the first %d items of the stream are held out.", STREAM_VALIDATION_ITEMS)
        return {"train": train.skip(STREAM_VALIDATION_ITEMS), "validation": train.take(STREAM_VALIDATION_ITEMS)}
    out = held_out(_item_names(train))
    if not any(out):
        return {"train": train}
    logger.info("No validation split: %d of %d training items are held out.", sum(out), len(out))
    return {
        "train": train.select([row for row, is_out in enumerate(out) if not is_out]),
        "validation": train.select([row for row, is_out in enumerate(out) if is_out]),
    }


def _item_names(train: Dataset) -> list[str]:
    """The files of a folder, or row numbers: a column `file` of a table may mean anything."""
    files = list(train["file"]) if "file" in train.column_names else []
    is_name = all(isinstance(name, str) for name in files) and len(set(files)) == len(train)
    return files if is_name else [str(row) for row in range(len(train))]


def _missing(path: Path) -> InputError:
    """The error for a path that does not exist, with the nearest name where its parent folder does."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = get_close_matches(path.name, siblings, n=1)
    if nearest:
        return unknown_name("file or folder", str(path), [str(path.parent / nearest[0])])
    return InputError(f"There is no file or folder {str(path)!r}; check data.path.")

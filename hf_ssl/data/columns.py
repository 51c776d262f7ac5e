"""The columns of a data set under the names that hf_ssl gives them, with images and recordings as undecoded files."""

from pathlib import Path
from typing import TypeAlias

from datasets import Audio, Dataset, Image, IterableDataset, List, Value

from hf_ssl.data.arguments import DataArguments, ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.folders import COLUMNS
from hf_ssl.errors import InputError, unknown_name

Split: TypeAlias = Dataset | IterableDataset

FILE = {"bytes": Value("binary"), "path": Value("string")}


def name_columns(split: Split, args: DataArguments, modality: str) -> Split:
    """Renames the columns that the arguments name to `image`, `audio` and `text`; a class keeps its name here.

    Args:
        split (`Dataset` or `IterableDataset`): as loaded.
        args ([`DataArguments`]): of the modality.
        modality (`str`): `"vision"`, `"speech"` or `"text"`.

    Raises:
        InputError: when a column does not exist or is not of its modality.
    """
    columns = split.column_names or list(next(iter(split)))
    names = {_main_column(args): COLUMNS[modality]}
    # Recordings need no transcripts, but a column that was named otherwise than by default has to be there.
    transcripts = args.text_column if isinstance(args, SpeechDataArguments) else None
    if transcripts is not None and (transcripts in columns or transcripts != SpeechDataArguments.text_column):
        names[transcripts] = "text"
    language = args.language_column if isinstance(args, SpeechDataArguments) else None
    kept = [*names, *(column for column in (args.label_column, language) if column is not None)]
    for column in kept:
        if column not in columns:
            raise unknown_name(f"column in {args.path}", column, columns)
    if modality == "text":
        _check_text(split, _main_column(args), args.path)
    else:
        split = _as_files(split, _main_column(args), args.path, modality)
    hidden = [column for column in columns if column in {*names.values(), "label"} and column not in kept]
    split = split.remove_columns(hidden)
    return split.rename_columns({old: new for old, new in names.items() if old != new})


def _main_column(args: DataArguments) -> str:
    match args:
        case ImageDataArguments():
            return args.image_column
        case SpeechDataArguments():
            return args.audio_column
        case TextDataArguments():
            return args.text_column
    raise TypeError(f"{type(args).__name__} is of no modality.")


def _check_text(split: Split, column: str, data_path: str) -> None:
    """Refuses a column that holds no texts, nor lists of words."""
    feature = (split.features or {column: Value("string")})[column]
    inner = feature.feature if isinstance(feature, List) else feature
    if not (isinstance(inner, Value) and inner.dtype.endswith(("string", "null"))):
        raise InputError(f"Column {column!r} of {data_path} holds {feature}, not texts; give the column with texts.")


def _as_files(split: Split, column: str, data_path: str, modality: str) -> Split:
    """Makes a column of images, recordings or file names one of undecoded files."""
    feature = (split.features or {column: Value("string")})[column]
    local = Path(data_path).expanduser()
    folder = local.parent if local.is_file() else local

    def full_path(name: str | None) -> str | None:
        """File names in a table of one's own are relative to it, not to where the program was started."""
        return str(folder / name) if name is not None and "://" not in name and local.exists() else name

    is_name = isinstance(feature, Value) and feature.dtype.endswith("string")
    if not (is_name or isinstance(feature, (Image, Audio)) or feature == FILE):
        raise InputError(
            f"Column {column!r} of {data_path} holds {feature}, not files; give the column with the files."
        )
    if isinstance(split, IterableDataset):
        if not is_name:
            # Not Audio(decode=False), which in a stream needs torchcodec although nothing is decoded.
            return split.cast_column(column, FILE)
        return split.map(lambda row: {column: {"bytes": None, "path": full_path(row[column])}})
    if is_name:
        names = [full_path(name) for name in split[column]]
        split = split.add_column("full path", names, feature=Value("string"))
        split = split.remove_columns(column).rename_column("full path", column)
    return split.cast_column(column, Image(decode=False) if modality == "vision" else Audio(decode=False))

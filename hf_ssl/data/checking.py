"""One pass over the data before the training, so that a broken file is found now and not after hours."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, IterableDataset, Value
from datasets.fingerprint import Hasher

from hf_ssl.data.arguments import DataArguments, SpeechDataArguments
from hf_ssl.data.columns import Split
from hf_ssl.data.decoding import decode_image, file_name, read_audio, report_resampling
from hf_ssl.data.folders import COLUMNS
from hf_ssl.errors import InputError

logger = logging.getLogger(__name__)

Check = Callable[[dict[str, Any], int], dict[str, Any]]


def drop_broken(dataset: Split, modality: str, args: DataArguments, *, required: bool = True) -> Split:
    """Opens every item once; what was found is cached by `datasets`.

    Broken are images that cannot be decoded; recordings that cannot be decoded, hold NaN or infinity or are shorter
    than `args.min_seconds`; empty texts. For speech it also measures, and says once for each sampling rate that
    recordings at that rate will be resampled.

    Args:
        dataset (`Dataset` or `IterableDataset`): a split from [`load_splits`].
        modality (`str`): `"vision"`, `"speech"` or `"text"`.
        args ([`DataArguments`]): of the modality; `on_error` and `num_proc` are read.
        required (`bool`): whether it is an error if every item is left out.

    Returns:
        `Dataset` or `IterableDataset`: without the broken items if `args.on_error` is `"skip"`, which is logged with
        their number. Speech has a column `length`, in seconds. A stream is checked while it is read: its broken items
        are logged, or raise, one by one.

    Raises:
        InputError: for the first broken item, with the number of all, if `args.on_error` is `"raise"`; or if every
            item is broken.
    """
    min_seconds = args.min_seconds if isinstance(args, SpeechDataArguments) else 0.0
    check = partial(_check, modality=modality, min_seconds=min_seconds)
    if isinstance(dataset, IterableDataset):
        return _check_stream(dataset, modality, check, args.on_error)
    columns = [name for name in (COLUMNS[modality], "file") if name in dataset.column_names]
    bare = dataset.select_columns(columns)
    checked = bare.map(
        check,
        with_indices=True,
        remove_columns=columns,
        num_proc=args.num_proc if args.num_proc > 1 else None,
        cache_file_name=_cache_file(bare, modality, min_seconds),
        desc="Checking the data",
    )
    # A verdict from the cache may be older than the repair of the file.
    again = {row: check(bare[row], row) for row, problem in enumerate(checked["problem"]) if problem}
    broken = {row: result["problem"] for row, result in again.items() if result["problem"]}
    report_broken(list(broken.values()), len(dataset), args.on_error, required=required)
    if isinstance(args, SpeechDataArguments):
        lengths = list(checked["length"])
        for row, result in again.items():
            lengths[row] = result["length"]
        for rate in set(checked.unique("rate")) - {0, args.sampling_rate}:
            report_resampling(rate, args.sampling_rate)
        dataset = dataset.add_column("length", lengths, feature=Value("float32"))
    return dataset.select([row for row in range(len(dataset)) if row not in broken]) if broken else dataset


def _check(row: dict[str, Any], index: int, modality: str, min_seconds: float) -> dict[str, Any]:
    """What is wrong with an item (`""`: nothing), its length in seconds and its rate in Hz (0: does not apply)."""
    item, length, rate = row[COLUMNS[modality]], 0.0, 0
    try:
        if item is None:
            raise InputError(f"{row.get('file') or f'Row {index}'} has no {COLUMNS[modality]}; fill or remove it.")
        if modality == "vision":
            decode_image(item)
        elif modality == "speech":
            waveform, rate = read_audio(item)
            length = len(waveform) / rate
            if length < min_seconds:
                raise InputError(
                    f"{file_name(item)} lasts {length:.2f} s, less than data.min_seconds={min_seconds}; "
                    "remove the file or lower data.min_seconds."
                )
        elif not item.strip():
            raise InputError(f"{row.get('file') or f'Row {index}'} has no text; fill or remove it.")
    except InputError as error:
        return {"problem": str(error), "length": length, "rate": rate}
    return {"problem": "", "length": length, "rate": rate}


def report_broken(problems: list[str], num_items: int, on_error: str, *, required: bool = True) -> None:
    """Raises for, or logs, what was found.

    Args:
        problems (`list[str]`): a sentence for each broken item.
        num_items (`int`): of all items, broken or not.
        on_error (`str`): `"raise"` or `"skip"`.
        required (`bool`): whether it is an error if every item is left out.

    Raises:
        InputError: if anything is broken and `on_error` is `"raise"`; or if everything is, and was required.
    """
    if not problems:
        return
    if len(problems) == num_items and (required or on_error == "raise"):
        raise InputError(f"None of the {num_items} items can be used; of the first: {problems[0]}")
    if on_error == "raise":
        count = f"the first of {len(problems)} broken items" if len(problems) > 1 else "the only broken item"
        raise InputError(
            f"{problems[0].rstrip('.')} ({count} among {num_items}), or set data.on_error=skip to leave such out."
        )
    logger.warning(
        "Left out %d of %d items (data.on_error=skip); the first: %s", len(problems), num_items, problems[0]
    )


def _check_stream(dataset: IterableDataset, modality: str, check: Check, on_error: str) -> IterableDataset:
    def raising(row: dict[str, Any], index: int) -> dict[str, Any]:
        result = check(row, index)
        if result["problem"] and on_error == "raise":
            raise InputError(f"{result['problem'].rstrip('.')}, or set data.on_error=skip to leave such items out.")
        if result["problem"]:
            logger.warning("Left out item %d of the stream: %s", index, result["problem"])
        return {"problem": result["problem"], **({"length": result["length"]} if modality == "speech" else {})}

    checked = dataset.map(raising, with_indices=True)
    return checked.filter(lambda row: not row["problem"]).remove_columns("problem")


def _cache_file(dataset: Dataset, modality: str, min_seconds: float) -> str | None:
    """Where the verdicts are kept.

    Data read from the cache of `datasets` have a place there. A folder's list of files is only in memory; its
    fingerprint follows the files' sizes and times.
    """
    if dataset.cache_files:
        return None
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_ssl"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"checked-{Hasher.hash([dataset._fingerprint, modality, min_seconds])}.arrow")

"""A folder of discrete speech units: one cluster index a frame for every recording of a data set.

The folder holds `units.parquet` (columns `split`, `index`, `path`, `units`; one row a recording, in the order of its
split after broken recordings are dropped) and `units.json` (how many clusters, how many labels a second, and how they
were made).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from hf_ssl.errors import InputError, unknown_name

UNITS_FILE = "units.parquet"
INFO_FILE = "units.json"
REQUIRED_INFO = ("num_clusters", "label_rate", "sampling_rate")


@dataclass(frozen=True)
class Units:
    """The units of a data set, as `load_units` reads them.

    Args:
        folder (`Path`): where they were read from.
        num_clusters (`int`): how many clusters there are; a unit is in `0 .. num_clusters - 1`.
        label_rate (`float`): labels a second, Hz.
        info (`dict`): everything in `units.json`: `feature`, `layer`, `sampling_rate`, purity …
        splits (`dict[str, Table]`): per split a table with columns `path` and `units`, one row a recording.
    """

    folder: Path
    num_clusters: int
    label_rate: float
    info: dict[str, Any]
    splits: dict[str, pa.Table]

    def join(self, dataset: Dataset, split: str) -> Dataset:
        """Adds the column `units` (list of int, at `label_rate`) to one split of the data set that was clustered.

        Args:
            dataset (`Dataset`): the split after broken recordings were dropped, with columns `audio` (`{"bytes",
                "path"}`) and `length` (seconds).
            split (`str`): its name, e.g. `"train"`.

        Raises:
            InputError: if the units are those of other recordings: another split, number, file name or duration.
        """
        if split not in self.splits:
            raise unknown_name(f"split in the units of {self.folder}", split, self.splits)
        table = self.splits[split]
        if len(table) != len(dataset):
            raise self._mismatch(f"hold {len(table)} recordings of split {split!r}, the data set has {len(dataset)}")
        self._check_rows(dataset, table)
        return dataset.add_column("units", table["units"].combine_chunks())

    def _check_rows(self, dataset: Dataset, table: pa.Table) -> None:
        """Compares every recording's path and duration; a feature's receptive field may cost the last few labels."""
        tolerance = max(4, 0.1 * self.label_rate)
        given_paths = dataset.select_columns(["audio"]).flatten()["audio.path"]  # without reading the audio itself
        paths, counts = table["path"].to_pylist(), pc.list_value_length(table["units"]).to_pylist()
        rows = zip(paths, given_paths, dataset["length"], counts, strict=True)
        for row, (path, given, seconds, count) in enumerate(rows):
            if path != recording_name(given):
                raise self._mismatch(f"were made from {path!r} where the data set has {given!r} (row {row})")
            if abs(seconds * self.label_rate - count) > tolerance:
                expected = f"{seconds:.2f} s at {self.label_rate:g} labels/s"
                raise self._mismatch(f"have {count} labels for {given!r}, which lasts {expected}")

    def _mismatch(self, what: str) -> InputError:
        return InputError(f"The units in {self.folder} {what}; run `hf-ssl cluster` again on this data set.")


def recording_name(path: str | None) -> str:
    """The part of a recording's path that survives moving the data: its file name (empty for bytes without a name)."""
    return Path(path).name if path else ""


def save_units(
    folder: str | Path,
    units: Mapping[str, Sequence[np.ndarray]],
    paths: Mapping[str, Sequence[str | None]],
    info: Mapping[str, Any],
) -> None:
    """Writes a units folder; `units.json` comes last, so a folder that has it is complete.

    Args:
        folder (`str` or `Path`): created if need be; units already there are replaced.
        units (`Mapping[str, Sequence[np.ndarray]]`): per split, the units `(T,)` of each recording, in the order of
            the split.
        paths (`Mapping[str, Sequence[str | None]]`): per split, the path of each recording.
        info (`Mapping[str, Any]`): JSON-ready; `num_clusters`, `label_rate` (Hz) and `sampling_rate` (Hz) are
            required.
    """
    missing = [key for key in REQUIRED_INFO if key not in info]
    assert not missing, f"info lacks {missing}"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    item = pa.int16() if info["num_clusters"] <= np.iinfo(np.int16).max else pa.int32()
    tables = [_split_table(split, units[split], paths[split], item) for split in units]
    staged_units, staged_info = folder / f".{UNITS_FILE}", folder / f".{INFO_FILE}"
    pq.write_table(pa.concat_tables(tables), staged_units)
    staged_info.write_text(json.dumps(dict(info), indent=2) + "\n")
    (folder / INFO_FILE).unlink(missing_ok=True)  # only now, when nothing can fail for want of space
    os.replace(staged_units, folder / UNITS_FILE)
    os.replace(staged_info, folder / INFO_FILE)


def _split_table(split: str, units: Sequence[np.ndarray], paths: Sequence[str | None], item: pa.DataType) -> pa.Table:
    offsets = np.cumsum([0, *(len(row) for row in units)])
    values = np.concatenate([np.zeros(0), *units], dtype=item.to_pandas_dtype(), casting="unsafe")
    return pa.table(
        {
            "split": pa.array([split] * len(units), pa.string()),
            "index": pa.array(range(len(units)), pa.int64()),
            "path": pa.array([recording_name(path) for path in paths], pa.string()),
            "units": pa.LargeListArray.from_arrays(offsets, pa.array(values, item)),
        }
    )


def load_units(folder: str | Path) -> Units:
    """Reads a units folder.

    Args:
        folder (`str` or `Path`): written by `hf-ssl cluster` ([`save_units`]).

    Returns:
        [`Units`].

    Raises:
        InputError: if the folder is not a complete units folder, or a unit is not below `num_clusters`.
    """
    folder = Path(folder)
    if not (folder / INFO_FILE).is_file() or not (folder / UNITS_FILE).is_file():
        raise InputError(
            f"{folder} holds no complete units ({UNITS_FILE} and {INFO_FILE}); make them with `hf-ssl cluster`."
        )
    try:
        info = json.loads((folder / INFO_FILE).read_text())
        table = pq.read_table(folder / UNITS_FILE, columns=["split", "index", "path", "units"])
    except (json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"The units in {folder} cannot be read ({error}); make them again with `hf-ssl cluster`."
        ) from error
    missing = [key for key in REQUIRED_INFO if key not in info]
    if missing:
        raise InputError(
            f"{folder / INFO_FILE} lacks {', '.join(missing)}; make the units again with `hf-ssl cluster`."
        )
    largest = max((int(chunk.values.to_numpy().max(initial=0)) for chunk in table["units"].chunks), default=0)
    if largest >= info["num_clusters"]:
        raise InputError(f"{folder} holds unit {largest} but says num_clusters {info['num_clusters']}; cluster again.")
    splits = {split: _rows_of(table, split) for split in table["split"].unique().to_pylist()}
    return Units(folder, info["num_clusters"], info["label_rate"], info, splits)


def _rows_of(table: pa.Table, split: str) -> pa.Table:
    rows = table.filter(pc.equal(table["split"], split)).sort_by("index")
    return rows.select(["path", "units"])

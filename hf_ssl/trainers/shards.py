"""Work on a data set cut into pieces, each of which is done and on disk or not there."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError, writing

SHARD_SECONDS = 300.0
"""Length of the recordings in a shard: that much is in memory, and is lost when a run is killed."""


@dataclass(frozen=True)
class Shard:
    """Some recordings of a split.

    Args:
        split (`str`): its name.
        number (`int`): of the shard within the split.
        rows (`tuple[int, ...]`): of the split.
    """

    split: str
    number: int
    rows: tuple[int, ...]


def cut(split: str, lengths: Sequence[float], seed: int) -> list[Shard]:
    """Cuts a split into shards of about 5 minutes after shuffling it, so that each is a random sample of the split.

    Args:
        split (`str`): its name.
        lengths (`Sequence[float]`): of its recordings, in seconds.
        seed (`int`): of the order.
    """
    shards: list[Shard] = []
    rows: list[int] = []
    seconds = 0.0
    for row in torch.randperm(len(lengths), generator=item_generator(seed, 0, 0)).tolist():
        rows.append(row)
        seconds += lengths[row]
        if seconds >= SHARD_SECONDS:
            shards.append(Shard(split, len(shards), tuple(rows)))
            rows, seconds = [], 0.0
    return [*shards, Shard(split, len(shards), tuple(rows))] if rows else shards


class ShardFolder:
    """Keeps what was made of each shard until all of the work is finished.

    Args:
        path (`Path`): created if need be.
        identity (`Mapping[str, Any]`): everything that the work depends on, as JSON gives it back.

    Raises:
        InputError: if the folder has shards of other work.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        mark = path / "identity.json"
        if mark.is_file():
            require_same(json.loads(mark.read_text(encoding="utf-8")), identity, path.parent)
        else:
            with writing(path):
                path.mkdir(parents=True, exist_ok=True)
            write_whole(mark, lambda staged: staged.write_text(json.dumps(identity), encoding="utf-8"))

    def file(self, kind: str, shard: Shard) -> Path:
        """Where a kind of result of a shard is, or will be."""
        return self.path / f"{kind}-{shard.split}-{shard.number:05d}.safetensors"

    def missing(self, kind: str, shards: Sequence[Shard]) -> list[Shard]:
        """The shards of which that result is still to be made."""
        return [shard for shard in shards if not self.file(kind, shard).is_file()]

    def save(self, kind: str, shard: Shard, tensors: dict[str, Tensor]) -> None:
        """Writes a result; from then on it is there, whole."""
        write_whole(self.file(kind, shard), lambda staged: save_file(tensors, staged))

    def load(self, kind: str, shard: Shard) -> dict[str, Tensor]:
        """Reads a result that is there."""
        return load_file(self.file(kind, shard))

    def remove(self) -> None:
        """Removes the folder with all results."""
        shutil.rmtree(self.path)


class FeaturesOnDisk:
    """The features of shards, read when asked for by number.

    Args:
        folder ([`ShardFolder`]): which has them.
        shards (`Sequence[Shard]`): their shards.
    """

    def __init__(self, folder: ShardFolder, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> Tensor:
        return self.folder.load("features", self.shards[number])["features"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name and renames it, so that it is complete or not there.

    Raises:
        InputError: when it cannot be written.
    """
    staged = path.with_name(f".{path.name}")
    with writing(path):
        try:
            write(staged)
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)


def require_same(found: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    """Compares what is in a folder with what is to be made there.

    Raises:
        InputError: for the first difference.
    """
    for key in identity:
        if found.get(key) != identity[key]:
            raise InputError(
                f"{folder} holds what was made with {key} {found.get(key)}, not {identity[key]}; choose another "
                "folder or remove this one."
            )

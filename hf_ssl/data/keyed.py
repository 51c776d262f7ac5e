"""A data set whose items know which item of which epoch they are."""

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol

from torch.utils.data import Dataset, IterableDataset, get_worker_info


class ItemKey(NamedTuple):
    """Which item, in which epoch, and which of its copies there: with the run's seed, the name of its random draws."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a key
    copy: int = 0


class MapStyleDataset(Protocol):
    """What can be wrapped: rows by number."""

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...

    def __len__(self) -> int: ...


class KeyedDataset(Dataset):
    """Adds each item's `key` to it.

    Args:
        dataset ([`MapStyleDataset`]): rows as dicts.

    An item is asked for by an [`ItemKey`] (as the training sampler does) or by its number, which means epoch 0
    (evaluation).
    """

    def __init__(self, dataset: MapStyleDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: ItemKey | int) -> dict[str, Any]:
        key = key if isinstance(key, ItemKey) else ItemKey(0, int(key))
        return {**self.dataset[key.index], "key": key}


class KeyedIterableDataset(IterableDataset):
    """A stream, over and over without end, with each item's key added to it.

    Args:
        dataset (`datasets.IterableDataset`): rows as dicts, with `set_epoch` for its shuffling.

    A trainer does not know how long a stream is, hence not in which epoch a run is resumed: to it all of them are one.
    An item's number is its place in the stream of its epoch; workers of a data loader, which read disjoint shards,
    number theirs interleaved.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for epoch in count():
            self.dataset.set_epoch(epoch)
            number = first
            for row in self.dataset:
                yield {**row, "key": ItemKey(epoch, number)}
                number += step
            if number == first:  # more workers than shards: this one has nothing to read
                return

"""Which items go into which batch of which rank, in every epoch: known by (seed, epoch) alone."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import BatchSampler

from hf_ssl.data.keyed import ItemKey
from hf_ssl.errors import InputError

BUCKET_BATCHES = 50
"""Items are sorted by length within random pools of about this many batches: like lengths together, order still
random.
"""


class EpochBatchSampler(BatchSampler):
    """Batches of [`ItemKey`]s for one rank.

    All ranks make the same list of batches from (seed, epoch) and each takes every `num_replicas`-th, so they have
    equally many. What does not fill a batch on every rank is left out of this epoch; the next one shuffles anew.

    Args:
        num_items (`int`): of the data set.
        batch_size (`int`): items a batch and rank, where no budget is given.
        seed (`int`): of the run.
        lengths (`Sequence[float]`, *optional*): of the items, in seconds or tokens; batches then hold items of like
            length.
        max_batch_length (`float`, *optional*): with `lengths`: a batch takes items while (number × longest) stays
            within this.
        rank (`int`): of this process.
        num_replicas (`int`): number of processes.
        steps_multiple (`int`): the number of batches a rank is cut to a multiple of this (gradient accumulation), so
            that every optimiser step is of the same size.

    Raises:
        InputError: when the data does not fill one batch on each rank, or the budget is smaller than an item.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        seed: int,
        lengths: Sequence[float] | None = None,
        max_batch_length: float | None = None,
        rank: int = 0,
        num_replicas: int = 1,
        steps_multiple: int = 1,
    ) -> None:
        self.num_items, self.seed = num_items, seed
        self.batch_size = batch_size
        self.drop_last = True
        self.lengths = None if lengths is None else np.asarray(lengths, dtype=np.float64)
        self.max_batch_length = max_batch_length
        self.rank, self.num_replicas, self.steps_multiple = rank, num_replicas, steps_multiple
        self.epoch = 0
        if self.lengths is not None and max_batch_length is not None and self.lengths.max() > max_batch_length:
            raise InputError(
                f"The longest item is {self.lengths.max():g} long, more than a batch may hold "
                f"(training.max_batch_length={max_batch_length:g}); raise that, or shorten the items."
            )
        # The number of batches may differ from epoch to epoch under a length budget; the schedule needs one number, so
        # every epoch is cut to what the first has, and an epoch that has fewer starts over.
        self.num_batches = len(self._batches(0)) // (num_replicas * steps_multiple) * steps_multiple
        if self.num_batches == 0:
            raise InputError(
                f"{num_items} training items do not fill {steps_multiple} batch(es) on each of {num_replicas} "
                "process(es); lower training.per_device_train_batch_size (or max_batch_length, or "
                "gradient_accumulation_steps)."
            )

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration runs through."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[ItemKey]]:  # type: ignore[override]
        epoch = self.epoch
        batches = self._batches(epoch)
        for number in range(self.num_batches):
            batch = batches[(number * self.num_replicas + self.rank) % len(batches)]
            yield [ItemKey(epoch, int(index)) for index in batch]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(self.num_items)
        if self.lengths is None:
            full = self.num_items // self.batch_size * self.batch_size
            return list(order[:full].reshape(-1, self.batch_size))
        batches: list[np.ndarray] = []
        pool = self._pool_size()
        for start in range(0, self.num_items, pool):
            batches += self._cut(order[start : start + pool])
        return [batches[i] for i in random.permutation(len(batches))]

    def _pool_size(self) -> int:
        assert self.lengths is not None
        if self.max_batch_length is None:
            return self.batch_size * BUCKET_BATCHES
        return max(int(self.max_batch_length / self.lengths.mean()), 1) * BUCKET_BATCHES

    def _cut(self, pool: np.ndarray) -> list[np.ndarray]:
        """Cut a pool, sorted from long to short, into batches; what does not fill one is left out, by chance."""
        assert self.lengths is not None
        if self.max_batch_length is None:
            pool = pool[: len(pool) // self.batch_size * self.batch_size]
        pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
        if self.max_batch_length is None:
            return list(pool.reshape(-1, self.batch_size))
        batches, start = [], 0
        while start < len(pool):
            size = int(self.max_batch_length // self.lengths[pool[start]])
            batches.append(pool[start : start + size])
            start += size
        return batches

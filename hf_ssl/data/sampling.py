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
        repeats (`Sequence[float]`, *optional*): r_i ≥ 0, how often each item comes in an epoch, on average: ⌊r_i⌋ or
            ⌈r_i⌉ times, its copies told apart by their keys; by default once. An epoch then has about Σ r_i items.

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
        repeats: Sequence[float] | None = None,
    ) -> None:
        self.num_items, self.seed = num_items, seed
        self.batch_size = batch_size
        self.drop_last = True
        self.lengths = None if lengths is None else np.asarray(lengths, dtype=np.float64)
        self.set_repeats(repeats)
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

    def set_repeats(self, repeats: Sequence[float] | np.ndarray | None) -> None:
        """Change how often each item comes in the epochs that follow; their number of batches stays as it is."""
        self.repeats = None if repeats is None else np.asarray(repeats, dtype=np.float64)

    def __iter__(self) -> Iterator[list[ItemKey]]:  # type: ignore[override]
        epoch = self.epoch
        batches = self._batches(epoch)
        for number in range(self.num_batches):
            batch = batches[(number * self.num_replicas + self.rank) % len(batches)]
            yield [ItemKey(epoch, int(index), int(copy)) for index, copy in batch]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of all ranks, each a list of items and their copies, (B, 2)."""
        random = np.random.default_rng((self.seed, epoch))
        drawn = self._draw(random)
        if self.lengths is None:
            full = len(drawn) // self.batch_size * self.batch_size
            return list(drawn[:full].reshape(-1, self.batch_size, 2))
        batches: list[np.ndarray] = []
        pool = self._pool_size()
        for start in range(0, len(drawn), pool):
            batches += self._cut(drawn[start : start + pool])
        return [batches[i] for i in random.permutation(len(batches))]

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """The items of an epoch and which of its copies each is, (M, 2), in random order."""
        order = random.permutation(self.num_items)
        if self.repeats is None:
            return np.stack([order, np.zeros_like(order)], axis=1)
        # Systematic sampling: the items lie end to end, each as long as its repeats, under a comb of step 1 whose
        # start is random. An item comes as often as teeth fall on it.
        ends = self.repeats[order].cumsum() + random.random()
        times: np.ndarray = np.diff(np.floor(ends).astype(np.int64), prepend=0)
        copies = np.arange(times.sum()) - np.repeat(times.cumsum() - times, times)
        return random.permutation(np.stack([np.repeat(order, times), copies], axis=1))

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
        lengths = self.lengths[pool[:, 0]]
        by_length = np.argsort(-lengths, kind="stable")
        pool, lengths = pool[by_length], lengths[by_length]
        if self.max_batch_length is None:
            return list(pool.reshape(-1, self.batch_size, 2))
        batches, start = [], 0
        while start < len(pool):
            size = int(self.max_batch_length // lengths[start])
            batches.append(pool[start : start + size])
            start += size
        return batches

import numpy as np
import pytest

from hf_ssl.data.keyed import ItemKey
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.errors import InputError

LENGTHS = np.random.default_rng(0).uniform(1, 15, 1000)


def test_ranks_share_the_batches_of_one_process() -> None:
    alone = list(EpochBatchSampler(64, 4, seed=1))
    ranks = [list(EpochBatchSampler(64, 4, seed=1, rank=rank, num_replicas=2)) for rank in (0, 1)]
    assert alone[0::2] == ranks[0]
    assert alone[1::2] == ranks[1]


def test_an_epoch_has_every_item_once_and_the_next_another_order() -> None:
    sampler = EpochBatchSampler(64, 4, seed=1)
    first = [key for batch in sampler for key in batch]
    sampler.set_epoch(1)
    second = [key for batch in sampler for key in batch]
    assert sorted(key.index for key in first) == list(range(64))
    assert {key.epoch for key in first} == {0}
    assert {key.epoch for key in second} == {1}
    assert [key.index for key in first] != [key.index for key in second]


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    sampler = EpochBatchSampler(64, 4, seed=1)
    list(sampler)
    sampler.set_epoch(3)
    other = EpochBatchSampler(64, 4, seed=1)
    other.set_epoch(3)
    assert list(sampler) == list(other)
    assert list(EpochBatchSampler(64, 4, seed=2)) != list(EpochBatchSampler(64, 4, seed=1))


def test_accumulation_cuts_the_epoch_to_whole_steps() -> None:
    assert len(EpochBatchSampler(70, 4, seed=0, steps_multiple=4)) == 16


def padded_share(batches: list[list[ItemKey]]) -> float:
    lengths = [LENGTHS[[key.index for key in batch]] for batch in batches]
    return 1 - sum(length.sum() for length in lengths) / sum(len(length) * length.max() for length in lengths)


def test_batches_of_like_lengths_waste_little() -> None:
    bucketed = list(EpochBatchSampler(1000, 16, seed=0, lengths=LENGTHS))
    assert padded_share(bucketed) < 0.05 < padded_share(list(EpochBatchSampler(1000, 16, seed=0)))


def test_what_does_not_fill_a_batch_changes_from_epoch_to_epoch() -> None:
    sampler = EpochBatchSampler(10, 8, seed=0, lengths=np.arange(1.0, 11.0))
    seen = np.zeros(10)
    for epoch in range(200):
        sampler.set_epoch(epoch)
        seen[[key.index for batch in sampler for key in batch]] += 1
    assert seen.min() > 120  # of 160 on average


def test_a_budget_bounds_every_batch() -> None:
    sampler = EpochBatchSampler(1000, 1, seed=0, lengths=LENGTHS, max_batch_length=87.5)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert len(batch) * max(LENGTHS[key.index] for key in batch) <= 87.5
    assert padded_share(batches) < 0.05


def test_too_few_items_or_too_small_a_budget_say_what_to_do() -> None:
    with pytest.raises(InputError, match="lower training.per_device_train_batch_size"):
        EpochBatchSampler(3, 4, seed=0)
    with pytest.raises(InputError, match="training.max_batch_length=10"):
        EpochBatchSampler(1000, 1, seed=0, lengths=LENGTHS, max_batch_length=10)

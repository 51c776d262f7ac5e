import numpy as np
import pytest
import torch

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.keyed import ItemKey
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.speech import prepare_speech
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


def padded_share(batches: list[list[ItemKey]], of_items: np.ndarray = LENGTHS) -> float:
    lengths = [of_items[[key.index for key in batch]] for batch in batches]
    return 1 - sum(length.sum() for length in lengths) / sum(len(length) * length.max() for length in lengths)


def test_batches_of_like_lengths_waste_little() -> None:
    bucketed = list(EpochBatchSampler(1000, 16, seed=0, lengths=LENGTHS))
    assert padded_share(bucketed) < 0.05 < padded_share(list(EpochBatchSampler(1000, 16, seed=0)))


def test_real_recordings_waste_little() -> None:
    args = SpeechDataArguments(path="sample:speech", sampling_rate=8000, max_seconds=6.0)
    lengths = np.array(prepare_speech(args, seed=0, encoder=None).lengths)
    sampler = EpochBatchSampler(len(lengths), 1, seed=0, lengths=lengths, max_batch_length=30.0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert padded_share(list(sampler), lengths) < 0.05


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


def counts(sampler: EpochBatchSampler, num_items: int) -> np.ndarray:
    return np.bincount([key.index for batch in sampler for key in batch], minlength=num_items)


def test_an_item_comes_as_often_as_its_repeats_say() -> None:
    repeats = np.array([0.0, 0.3, 1.0, 2.5, 6.2] * 8)
    sampler = EpochBatchSampler(40, 1, seed=0, repeats=repeats)
    total = np.zeros(40)
    for epoch in range(400):
        sampler.set_epoch(epoch)
        times = counts(sampler, 40)
        assert ((times == np.floor(repeats)) | (times == np.ceil(repeats))).all()
        total += times
    np.testing.assert_allclose(total / 400, repeats, atol=0.1)  # 4 standard deviations of a share of .5


def test_the_copies_of_an_item_have_keys_of_their_own() -> None:
    sampler = EpochBatchSampler(10, 4, seed=0, repeats=[3.5] * 10)
    keys = [key for batch in sampler for key in batch]
    assert len(set(keys)) == len(keys) > 30
    assert {key.copy for key in keys} <= {0, 1, 2, 3}
    draws = {torch.rand((), generator=item_generator(0, *key)).item() for key in keys}
    assert len(draws) == len(keys)


def test_repeated_items_are_in_random_order_and_known_by_seed_and_epoch() -> None:
    options = {"seed": 3, "lengths": LENGTHS, "max_batch_length": 60.0, "repeats": np.linspace(0, 2, 1000)}
    alone = EpochBatchSampler(1000, 1, **options)
    alone.set_epoch(4)
    batches = list(alone)
    again = EpochBatchSampler(1000, 1, **options)
    list(again)
    again.set_epoch(4)
    assert list(again) == batches
    ranks = [EpochBatchSampler(1000, 1, **options, rank=rank, num_replicas=2) for rank in (0, 1)]
    for rank in ranks:
        rank.set_epoch(4)
    of_ranks = [list(rank) for rank in ranks]
    assert len(of_ranks[0]) == len(of_ranks[1])
    seen = [key for batches_of_rank in of_ranks for batch in batches_of_rank for key in batch]
    assert len(set(seen)) == len(seen), "no item is drawn by both"
    halves = np.array_split([key.index for batch in batches for key in batch], 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 60  # of 667 on average: the order does not follow the repeats


def test_without_repeats_the_first_copy_is_drawn() -> None:
    # Of a run that was started before items could be repeated, nothing changes.
    expected = torch.Generator().manual_seed(
        int(np.random.SeedSequence((5, 6, 7)).generate_state(1, np.uint64)[0] >> 1)
    )
    assert torch.rand((), generator=item_generator(5, *ItemKey(6, 7))) == torch.rand((), generator=expected)


def test_too_few_items_or_too_small_a_budget_say_what_to_do() -> None:
    with pytest.raises(InputError, match="lower training.per_device_train_batch_size"):
        EpochBatchSampler(3, 4, seed=0)
    with pytest.raises(InputError, match="training.max_batch_length=10"):
        EpochBatchSampler(1000, 1, seed=0, lengths=LENGTHS, max_batch_length=10)


def test_repeats_may_change_between_epochs() -> None:
    """The number of batches, which the schedule knows, stays; so does what (seed, epoch) says of an epoch."""
    sampler, fresh = EpochBatchSampler(12, 4, seed=0), EpochBatchSampler(12, 4, seed=0)
    sampler.set_epoch(1)
    sampler.set_repeats([3.0] * 4 + [0.0] * 8)
    keys = [key for batch in sampler for key in batch]
    assert sorted(keys) == [ItemKey(1, index, copy) for index in range(4) for copy in range(3)]
    sampler.set_repeats(None)
    fresh.set_epoch(1)
    assert list(sampler) == list(fresh)
    assert len(sampler) == len(fresh) == 3

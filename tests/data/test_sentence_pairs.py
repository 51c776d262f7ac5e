from random import Random

import numpy as np
import pytest

from hf_ssl.data.sentence_pairs import IS_NEXT, IS_RANDOM, _truncate, pack_pairs


def corpus(num_documents=200, seed=0, longest=20):
    """The bounds of documents of 1 to 30 sentences of 1 to `longest` tokens."""
    random = np.random.default_rng(seed)
    lengths = [random.integers(1, longest + 1, size=random.integers(1, 31)) for _ in range(num_documents)]
    return [np.concatenate([[0], np.cumsum(sizes)]) for sizes in lengths]


def pack(bounds, num_tokens=61, short=0.1, seed=0):
    return pack_pairs(bounds, num_tokens=num_tokens, short_sequence_probability=short, random=Random(seed))


def test_half_of_the_pairs_are_random():
    pairs = pack(corpus(800))
    several = pairs[pairs[:, 6] == IS_NEXT]
    assert len(several) > 1000
    assert (pairs[:, 6] == IS_RANDOM).mean() == pytest.approx(0.5, abs=0.07)


def test_next_segments_follow_and_random_ones_are_of_another_document():
    for first_document, _, first_end, document, start, _, label in pack(corpus()).tolist():
        if label == IS_RANDOM:
            assert document != first_document
        else:
            assert (document, start >= first_end) == (first_document, True)


def test_random_segments_come_from_every_other_document():
    bounds = [np.array([0, 5]) for _ in range(4)] * 1
    seconds = {(first, second) for seed in range(60) for first, _, _, second, *_ in pack(bounds, seed=seed).tolist()}
    assert seconds == {(i, j) for i in range(4) for j in range(4) if i != j}


def test_no_pair_is_too_long_and_no_segment_empty():
    pairs = pack(corpus(longest=90), num_tokens=29)
    sizes = np.stack([pairs[:, 2] - pairs[:, 1], pairs[:, 5] - pairs[:, 4]])
    assert sizes.min() >= 1
    assert sizes.sum(axis=0).max() == 29


def test_most_pairs_are_as_long_as_they_may_be_and_some_aim_lower():
    bounds = [np.arange(0, 2001, 4) for _ in range(60)]
    sizes = (lambda p: p[:, 2] - p[:, 1] + p[:, 5] - p[:, 4])(pack(bounds, short=0.0))
    assert np.median(sizes) == 61
    assert (sizes >= 58).mean() > 0.95
    assert np.median((lambda p: p[:, 2] - p[:, 1] + p[:, 5] - p[:, 4])(pack(bounds, short=1.0))) < 50


def test_no_sentence_is_lost():
    """What a random second segment leaves unused starts the next pair: whole, unless truncation cuts it."""
    bounds = corpus(longest=8)
    covered = [np.zeros(limits[-1], dtype=int) for limits in bounds]
    for first, start, end, second, second_start, second_end, label in pack(bounds, num_tokens=1000).tolist():
        covered[first][start:end] += 1
        if label == IS_NEXT:
            covered[second][second_start:second_end] += 1
    assert all((tokens == 1).all() for tokens in covered)


def test_documents_of_one_sentence_have_random_seconds():
    pairs = pack([np.array([0, 7]), np.array([0, 3])])
    assert pairs.tolist() == [[0, 0, 7, 1, 0, 3, IS_RANDOM], [1, 0, 3, 0, 0, 7, IS_RANDOM]]


def test_the_seed_decides():
    bounds = corpus(30)
    assert np.array_equal(pack(bounds, seed=3), pack(bounds, seed=3))
    assert not np.array_equal(pack(bounds, seed=3), pack(bounds, seed=4))


def truncate_one_by_one(first, second, num_tokens):
    """The reference's loop: how many tokens are left of each."""
    while first + second > num_tokens:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def test_truncation_takes_from_the_longer_segment_one_by_one():
    random = Random(0)
    for first in range(1, 14):
        for second in range(1, 14):
            for num_tokens in range(2, 16):
                _, start, end, _, second_start, second_end = _truncate(
                    (0, 10, 10 + first), (1, 20, 20 + second), num_tokens, random
                )
                assert (end - start, second_end - second_start) == truncate_one_by_one(first, second, num_tokens)
                assert 10 <= start < end <= 10 + first
                assert 20 <= second_start < second_end <= 20 + second


def test_truncation_takes_from_both_ends():
    random = Random(0)
    fronts = [_truncate((0, 0, 40), (1, 0, 10), 30, random)[1] for _ in range(500)]  # 20 of 40 go
    assert np.mean(fronts) == pytest.approx(10, abs=0.5)
    assert np.std(fronts) == pytest.approx(5**0.5, rel=0.15)

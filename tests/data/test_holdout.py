import numpy as np

from hf_ssl.data import holdout
from hf_ssl.data.holdout import held_out, name_hash

NAMES = [f"speaker{number % 7}/clip{number}.wav" for number in range(5_000)]


def test_hash_is_even_and_depends_on_the_name_alone():
    values = [name_hash(name) for name in NAMES]
    assert values == [name_hash(name) for name in NAMES]
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert counts.sum() == 5_000
    assert counts.min() > 400


def test_about_one_in_ten():
    assert 400 < sum(held_out(NAMES)) < 600


def test_a_file_stays_on_its_side_when_others_come_or_go():
    before = dict(zip(NAMES, held_out(NAMES), strict=True))
    fewer = NAMES[::2]
    assert held_out(fewer) == [before[name] for name in fewer]


def test_order_does_not_matter():
    assert held_out(NAMES[::-1]) == held_out(NAMES)[::-1]


def test_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(holdout, "MAX_HELD_OUT", 50)
    assert 25 < sum(held_out(NAMES)) < 80


def test_few_items_give_at_least_one_to_each_side():
    for count in range(2, 30):
        assert 1 <= sum(held_out(NAMES[:count])) < count


def test_a_single_item_is_trained_on():
    assert held_out(["only"]) == [False]
    assert held_out([]) == []

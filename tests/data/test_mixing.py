"""Utterance mixing against the loop of the paper's algorithm, and as part of the batches."""

import math

import numpy as np
import pytest
import torch

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.keyed import ItemKey
from hf_ssl.data.mixing import UtteranceMixing, overlap
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.speech import prepare_speech
from hf_ssl.errors import InputError


def waveform(length: int, seed: int, gain: float = 1.0) -> torch.Tensor:
    return gain * torch.randn(length, generator=torch.Generator().manual_seed(seed))


def naive_overlap(primary: list[float], secondary: list[float], generator: torch.Generator) -> list[float]:
    """Sample by sample, with the draws in the order that [`overlap`] makes them."""

    def uniform(most: int) -> int:
        return torch.randint(0, most + 1, (1,), generator=generator).item()

    length = min(uniform(math.floor(len(primary) / 2)), len(secondary))
    start, start_of_other = uniform(len(primary) - length), uniform(len(secondary) - length)
    decibels = -5 + 10 * torch.rand(1, generator=generator).item()
    power = sum(x * x for x in primary) / len(primary)
    power_of_other = sum(y * y for y in secondary) / len(secondary)
    mixed = list(primary)
    for position in range(length):
        scaled = math.sqrt(power / power_of_other / 10 ** (decibels / 10)) * secondary[start_of_other + position]
        mixed[start + position] += scaled
    return mixed


@pytest.mark.parametrize(("length", "length_of_other"), [(400, 600), (400, 90), (7, 3)])
def test_the_loop_of_the_paper(length, length_of_other):
    first, other = waveform(length, 1), waveform(length_of_other, 2, gain=7.0)
    for index in range(20):
        mixed = overlap(first, other, item_generator(0, 0, index))
        expected = naive_overlap(first.tolist(), other.tolist(), item_generator(0, 0, index))
        torch.testing.assert_close(mixed, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_lengths_places_and_energies():
    """A constant of 1 under a constant of 100: what is added says where it is and how loud."""
    first, other = torch.ones(1000), torch.full((5000,), 100.0)
    spans, ratios = [], []
    for index in range(2000):
        added = overlap(first, other, item_generator(3, 0, index)) - first
        covered = added.nonzero()[:, 0]
        if len(covered):
            assert covered[-1] - covered[0] + 1 == len(covered), "one stretch"
            spans.append((covered[0].item(), len(covered)))
            ratios.append(-20 * math.log10(added[covered[0]].item()))
        else:
            spans.append((0, 0))
    starts, lengths = np.array(spans).T
    assert lengths.max() <= 500
    assert lengths.mean() == pytest.approx(250, abs=4 * 500 / math.sqrt(12 * 2000))
    assert min(ratios) >= -5.001
    assert max(ratios) <= 5.001
    assert np.mean(ratios) == pytest.approx(0, abs=4 * 10 / math.sqrt(12 * 2000))
    assert starts[lengths > 0].min() < 20
    assert (starts + lengths).max() > 980


def test_silence_adds_nothing():
    first = waveform(100, 1)
    assert overlap(first, torch.zeros(100), item_generator(0, 0, 0)).equal(first)


def test_every_other_recording_is_as_likely_and_itself_is_not():
    rows = [{"audio": number} for number in range(5)]
    mixing = UtteranceMixing(rows, probability=0.2)
    drawn = [mixing.draw(2, item_generator(0, 0, index)) for index in range(5000)]
    chosen = [row["audio"] for row in drawn if row is not None]
    assert len(chosen) / 5000 == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 5000))
    assert sorted(set(chosen)) == [0, 1, 3, 4]
    assert np.bincount(chosen)[[0, 1, 3, 4]].min() > 180  # of 250
    assert UtteranceMixing(rows, probability=0.0).draw(0, item_generator(0, 0, 0)) is None
    with pytest.raises(InputError, match="no other recording to mix in"):
        UtteranceMixing(rows[:1], probability=0.2)


@pytest.fixture(scope="module")
def prepared():
    settings = {"path": "sample:speech", "sampling_rate": 8000, "max_seconds": 6.0}
    clean = prepare_speech(SpeechDataArguments(**settings), seed=0, encoder=None)
    mixed = prepare_speech(SpeechDataArguments(**settings, mixing_probability=0.5), seed=0, encoder=None)
    return clean, mixed


def batch_of(data, indices):
    return data.collator([data.train[ItemKey(1, index)] for index in indices])["input_values"]


def test_about_that_share_of_a_batch_is_mixed_and_normalised_again(prepared):
    clean, mixed = (batch_of(data, range(100)) for data in prepared)
    changed = (clean != mixed).any(dim=1)
    assert 30 < changed.sum() < 70
    assert mixed[changed].mean(dim=1).abs().max() < 1e-5
    torch.testing.assert_close(
        mixed[changed].var(dim=1, correction=0), torch.ones(int(changed.sum())), atol=1e-4, rtol=0
    )


def test_an_item_does_not_depend_on_its_batch(prepared):
    _, mixed = prepared
    lengths = np.array(mixed.lengths)
    shortest = lengths.argmin()  # with it in the batch, all crops are as long
    together = batch_of(mixed, [shortest, 3, 7, 11, 20, 33])
    swapped = batch_of(mixed, [33, shortest, 20, 11, 7, 3, 9])
    assert together[1:].equal(swapped[[5, 4, 3, 2, 0]])


def test_units_are_those_of_the_recording(prepared):
    _, mixed = prepared
    items = [{**mixed.train[ItemKey(1, index)], "units": list(range(3000))} for index in range(20)]
    mixing, mixed.collator.label_rate = mixed.collator.mixing, 100
    seen = {}
    mixed.collator.draw = lambda batch, generators: (
        seen.update(draws=[torch.rand(1, generator=g) for g in generators]) or batch
    )
    try:
        with_mixing, draws = mixed.collator(items)["units"], seen["draws"]
        mixed.collator.mixing = None
        assert mixed.collator(items)["units"].equal(with_mixing)
        assert draws != seen["draws"], "the objective draws on, from the same generators"
    finally:
        mixed.collator.mixing, mixed.collator.label_rate, mixed.collator.draw = mixing, None, None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixing_probability": 1.2}, "data.mixing_probability is 1.2; give a number between 0 and 1"),
        ({"mixing_probability": 0.2, "streaming": True}, "data.mixing_probability is for stored data"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(InputError, match=message):
        prepare_speech(SpeechDataArguments(path="sample:speech", **settings), seed=0, encoder=None)

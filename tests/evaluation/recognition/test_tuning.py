"""The search on synthetic recordings, where the language model helps if its weight is right."""

import numpy as np
import pytest

from hf_ssl.evaluation.recognition.hypothesis import Beam, Hypothesis, Weights
from hf_ssl.evaluation.recognition.recogniser import HeardRecordings
from hf_ssl.evaluation.recognition.tuning import (
    RANGES,
    Trial,
    best_of,
    tune,
    tune_rescoring,
    weight_settings,
)


class SweetSpot:
    """A decoder that is right in the second recording at n-gram weights near 1.5, and with a beam of 50 or more."""

    def __init__(self) -> None:
        self.weights, self.beam = Weights(ngram=0.5), Beam(size=100)
        self.decoded = 0

    def set(self, weights: Weights, beam: Beam) -> None:
        self.weights, self.beam = weights, beam

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        self.decoded += 1
        right = abs(self.weights.ngram - 1.5) < 0.4 and self.beam.size >= 50
        text = "a b" if len(log_probs) == 1 or right else "a"
        return [Hypothesis(text, 0.0, 0.0, num_tokens=2, num_frames=len(log_probs))]


def recordings(*references: str) -> HeardRecordings:
    lengths = range(1, len(references) + 1)
    log_probs = [np.zeros((length, 5), dtype=np.float32) for length in lengths]
    return HeardRecordings([str(n) for n in lengths], [1.0] * len(references), list(references), log_probs)


def test_weights_then_beam_are_chosen_and_set():
    decoder = SweetSpot()
    trials = tune(decoder, recordings("a b", "a b"), ("wer", "cer"), num_trials=40, beam_sizes=(25, 50, 400))
    assert trials[0] == Trial(Weights(ngram=0.5), 100, {"wer": 0.25, "cer": pytest.approx(1 / 3)})
    assert len(trials) == 43
    best = best_of(trials)
    assert abs(best.weights.ngram - 1.5) < 0.4
    assert (best.rates["wer"], best.beam_size) == (0.0, 50)  # the smallest beam that is as good
    assert (decoder.weights, decoder.beam.size) == (best.weights, 50)
    assert [trial.beam_size for trial in trials[-3:]] == [25, 50, 400]
    assert len({trial.weights for trial in trials[-3:]}) == 1


def test_recordings_without_transcript_are_neither_decoded_nor_counted():
    decoder = SweetSpot()
    (first, *_) = tune(decoder, recordings("a b", "", "a b"), ("wer",), num_trials=1, beam_sizes=())
    assert decoder.decoded == 2
    assert first.rates == {"wer": 0.25}


def test_the_weights_tried_are_those_of_the_seed_and_stay_in_their_ranges():
    start = Weights(ngram=9.0, neural=0.3)
    tried = weight_settings(start, ("ngram", "word"), 50, seed=1)
    assert tried[0] == start
    assert tried == weight_settings(start, ("ngram", "word"), 50, seed=1)
    assert tried != weight_settings(start, ("ngram", "word"), 50, seed=2)
    for name in ("ngram", "word"):
        low, high = RANGES[name]
        values = [getattr(weights, name) for weights in tried[1:]]
        assert low <= min(values) < low + (high - low) / 5
        assert high >= max(values) > high - (high - low) / 5
    assert {weights.neural for weights in tried} == {0.3}


def test_lists_are_ordered_by_the_weights_that_serve_them_best():
    """The causal language model knows: the right texts are those that it finds probable."""
    right = Hypothesis("a b", 0.0, acoustic=-5.0, num_tokens=2, num_frames=3, neural=-1.0)
    wrong = Hypothesis("a a", 0.0, acoustic=-4.0, num_tokens=2, num_frames=3, neural=-3.0)
    start = Trial(Weights(), 100, {"wer": 0.5})
    trials = tune_rescoring([[wrong, right]] * 2, recordings("a b", "a b"), ("wer",), start, num_trials=30)
    assert trials[0].rates == {"wer": 0.5}
    best = best_of(trials)
    assert best.rates == {"wer": 0.0}
    assert best.weights.neural > 0.5


def test_equal_error_rates_go_to_the_first():
    trials = [Trial(Weights(ngram=n), 100, {"wer": rate}) for n, rate in ((1.0, 0.5), (2.0, 0.25), (3.0, 0.25))]
    assert best_of(trials).weights.ngram == 2.0


def test_trials_are_plain_values():
    trial = Trial(Weights(1.0, -0.5, 0.25), 50, {"wer": 0.125})
    assert trial.to_dict() == {"ngram": 1.0, "word": -0.5, "neural": 0.25, "beam_size": 50, "wer": 0.125}

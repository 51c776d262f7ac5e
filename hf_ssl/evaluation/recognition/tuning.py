"""Choosing a decoder's settings on validation recordings, whose emissions are computed once and kept in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from tqdm.auto import tqdm

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.error_rates import count_errors
from hf_ssl.evaluation.recognition.hypothesis import Beam, Decoder, Hypothesis, Weights
from hf_ssl.evaluation.recognition.recogniser import HeardRecordings, Recogniser, decode_all
from hf_ssl.evaluation.recognition.rescoring import CausalLM, rescored
from hf_ssl.evaluation.recognition.settings import DecodingSettings

RANGES = {"ngram": (0.0, 3.5), "word": (-5.0, 5.0), "neural": (0.0, 3.5)}
"""Of the weights tried. The first two are those of HuBERT's sweep (Hsu et al. 2021), [0, 8] for logarithms to base 10
being [0, 3.5] for natural ones."""

BEAM_SIZES = (25, 100, 400)
"""Tried once the weights are chosen."""


class TunableDecoder(Decoder, Protocol):
    """A beam search whose settings can be changed without loading anything anew."""

    weights: Weights
    beam: Beam

    def set(self, weights: Weights, beam: Beam) -> None:
        """Decode with other weights or another beam."""
        ...


@dataclass(frozen=True)
class Trial:
    """One setting and what it gives on validation.

    Args:
        weights ([`Weights`]): of the parts of a score.
        beam_size (`int`): hypotheses kept at each frame.
        rates (`dict[str, float]`): error rates, the first of which is minimised.
    """

    weights: Weights
    beam_size: int
    rates: dict[str, float]

    @property
    def key(self) -> tuple[float, ...]:
        """What the best trial has the least of: the first error rate, then the next ones, then the work."""
        return (*self.rates.values(), self.beam_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self.weights), "beam_size": self.beam_size, **self.rates}


def tune(
    decoder: TunableDecoder,
    recordings: HeardRecordings,
    metrics: Sequence[str],
    *,
    tuned: Sequence[str] = ("ngram", "word"),
    num_trials: int = 60,
    beam_sizes: Sequence[int] = BEAM_SIZES,
    seed: int = 0,
) -> list[Trial]:
    """Search the weights of a decoder, then the size of its beam; the decoder is left with the best.

    Args:
        decoder ([`TunableDecoder`]): its own settings are the first trial.
        recordings ([`HeardRecordings`]): of validation; those without a transcript are left out.
        metrics (`Sequence[str]`): error rates, the first of which is minimised; see [`ErrorCounts`].
        tuned (`Sequence[str]`): the weights to search; see [`RANGES`].
        num_trials (`int`): settings of the weights tried.
        beam_sizes (`Sequence[int]`): tried with the best weights.
        seed (`int`): of the settings.

    Returns:
        `list[Trial]`: all, in order; the best is `min(trials, key=lambda trial: trial.key)`, the first of equals.
    """
    log_probs = [recordings.log_probs[row] for row in recordings.scored]

    def trial(weights: Weights, size: int) -> Trial:
        decoder.set(weights, replace(decoder.beam, size=size))
        best = [hypotheses[0] for hypotheses in decode_all(decoder, log_probs)]
        return Trial(weights, size, rates(best, recordings, metrics))

    size = decoder.beam.size
    points = weight_settings(decoder.weights, tuned, num_trials, seed)
    trials = [trial(weights, size) for weights in tqdm(points, desc="Tuning weights", disable=None)]
    chosen = best_of(trials).weights
    others = [other for other in beam_sizes if other != size]
    trials += [trial(chosen, other) for other in tqdm(others, desc="Tuning the beam", disable=None)]
    best = best_of(trials)
    decoder.set(best.weights, replace(decoder.beam, size=best.beam_size))
    return trials


def tune_rescoring(
    lists: Sequence[Sequence[Hypothesis]],
    recordings: HeardRecordings,
    metrics: Sequence[str],
    start: Trial,
    *,
    tuned: Sequence[str] = ("ngram", "word", "neural"),
    num_trials: int = 300,
    seed: int = 0,
) -> list[Trial]:
    """Search the weights with which n-best lists are ordered anew; nothing is decoded again.

    Args:
        lists (`Sequence[Sequence[Hypothesis]]`): of the recordings whose transcript is known, with neural scores.
        recordings ([`HeardRecordings`]): of validation.
        metrics (`Sequence[str]`): error rates, the first of which is minimised.
        start ([`Trial`]): the settings that the lists were made with, which are the first trial.
        tuned (`Sequence[str]`): the weights to search.
        num_trials (`int`): settings of the weights tried.
        seed (`int`): of the settings.
    """
    trials = []
    for weights in weight_settings(start.weights, tuned, num_trials, seed):
        best = [max((h.weighted(weights) for h in hypotheses), key=lambda h: h.score) for hypotheses in lists]
        trials.append(Trial(weights, start.beam_size, rates(best, recordings, metrics)))
    return trials


def choose(
    settings: DecodingSettings,
    recogniser: Recogniser,
    validation: HeardRecordings,
    lm: CausalLM | None = None,
    *,
    num_trials: int = 60,
    seed: int = 0,
) -> tuple[DecodingSettings, list[Trial]]:
    """Settings with the weights and the beam that recognise validation recordings best.

    Args:
        settings ([`DecodingSettings`]): the decoder, and where the search starts.
        recogniser ([`Recogniser`]): whose decoder it is.
        validation ([`HeardRecordings`]): nothing else is looked at.
        lm ([`CausalLM`], *optional*): that orders the n-best lists of the best search anew; the weights for it are
            chosen then, all together.
        num_trials (`int`): weights tried.
        seed (`int`): of the weights tried.

    Returns:
        `tuple[DecodingSettings, list[Trial]]`: the chosen settings, and all that was tried, in order.

    Raises:
        InputError: for greedy decoding, which has no settings, or recordings without transcripts.
    """
    if settings.decoder == "greedy":
        raise InputError("Greedy decoding has nothing to tune; choose --decoder words or letters.")
    tuned = ("ngram", "word") if settings.lm else ("word",)
    single = replace(settings, beam=replace(settings.beam, num_best=1))
    decoder, _ = single.make_decoder(recogniser.vocabulary)
    trials = tune(
        cast(TunableDecoder, decoder), validation, recogniser.metrics, tuned=tuned, num_trials=num_trials, seed=seed
    )
    best = best_of(trials)
    chosen = replace(settings, weights=best.weights, beam=replace(settings.beam, size=best.beam_size))
    if lm is not None:
        cast(TunableDecoder, decoder).set(chosen.weights, chosen.beam)
        lists = rescored(decode_all(decoder, [validation.log_probs[row] for row in validation.scored]), lm)
        trials += tune_rescoring(
            lists, validation, recogniser.metrics, best, tuned=(*tuned, "neural"), num_trials=5 * num_trials, seed=seed
        )
        chosen = replace(chosen, rescoring=best_of(trials).weights)
    return chosen, trials


def best_of(trials: Iterable[Trial]) -> Trial:
    """The trial with the lowest error rates; of equals the first."""
    return min(trials, key=lambda trial: trial.key)


def weight_settings(start: Weights, tuned: Sequence[str], number: int, seed: int) -> list[Weights]:
    """Weights to try: first those given, then some drawn uniformly from [`RANGES`]."""
    low, high = zip(*(RANGES[name] for name in tuned), strict=True)
    points = np.random.default_rng(seed).uniform(low, high, size=(number - 1, len(tuned))).round(3).tolist()
    return [start, *(replace(start, **dict(zip(tuned, point, strict=True))) for point in points)]


def rates(transcripts: Sequence[Hypothesis], recordings: HeardRecordings, metrics: Sequence[str]) -> dict[str, float]:
    """The error rates of transcripts of the recordings whose reference is known."""
    texts = [hypothesis.text for hypothesis in transcripts]
    references = [recordings.references[row] for row in recordings.scored]
    return {metric: count_errors(references, texts, metric).value for metric in metrics}

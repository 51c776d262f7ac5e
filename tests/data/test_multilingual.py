"""Languages are drawn in proportion to a power of their seconds of speech."""

import numpy as np
import pytest

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.multilingual import language_repeats
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.data.speech import prepare_speech
from hf_ssl.errors import InputError

ITEMS = {"it": 900, "sw": 90, "ky": 10}
LANGUAGES = np.repeat(list(ITEMS), list(ITEMS.values()))
SECONDS = np.random.default_rng(0).uniform(1, 15, len(LANGUAGES)) * np.where(LANGUAGES == "sw", 0.5, 1)


def naive_shares(alpha: float) -> dict[str, float]:
    """`p_l = (n_l / N)^α / Σ_k (n_k / N)^α`."""
    total = sum(SECONDS)
    powers = {}
    for language in ITEMS:
        seconds = 0.0
        for item, length in zip(LANGUAGES, SECONDS, strict=True):
            seconds += length if item == language else 0.0
        powers[language] = (seconds / total) ** alpha
    return {language: power / sum(powers.values()) for language, power in powers.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_seconds_drawn_of_each_language(alpha):
    repeats = language_repeats(LANGUAGES, SECONDS, alpha)
    shares = naive_shares(alpha)
    for language, share in shares.items():
        rows = language == LANGUAGES
        assert (repeats[rows] * SECONDS[rows]).sum() / SECONDS.sum() == pytest.approx(share)
        assert len(set(repeats[rows])) == 1, "within a language every recording is as likely"
    assert (repeats * SECONDS).sum() == pytest.approx(SECONDS.sum()), "the epoch lasts as long as before"


def test_what_the_sampler_draws():
    sampler = EpochBatchSampler(
        len(LANGUAGES),
        1,
        seed=0,
        lengths=SECONDS,
        max_batch_length=60.0,
        repeats=language_repeats(LANGUAGES, SECONDS, 0.5),
    )
    drawn = dict.fromkeys(ITEMS, 0.0)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        for batch in sampler:
            for key in batch:
                drawn[LANGUAGES[key.index]] += SECONDS[key.index]
    total = sum(drawn.values())
    for language, share in naive_shares(0.5).items():
        assert drawn[language] / total == pytest.approx(share, rel=0.03)
    assert total / 20 == pytest.approx(SECONDS.sum(), rel=0.03)


def test_one_means_the_data_as_they_are():
    np.testing.assert_allclose(language_repeats(LANGUAGES, SECONDS, 1.0), 1.0)


@pytest.mark.parametrize("label", [None, "language"])
def test_the_embedded_speech(label):
    settings = {"sampling_rate": 8000, "language_column": "language", "label_column": label, "max_seconds": 6.0}
    data = prepare_speech(SpeechDataArguments(path="sample:speech", **settings), seed=0, encoder=None)
    languages = data.train.dataset["label" if label else "language"]
    seconds = np.bincount(languages, weights=np.array(data.repeats) * np.array(data.lengths))
    natural = np.bincount(languages, weights=data.lengths)
    np.testing.assert_allclose(seconds / seconds.sum(), natural**0.5 / (natural**0.5).sum(), rtol=1e-6)
    assert data.repeats[languages.index(2)] > 5 > 1 > data.repeats[languages.index(0)]  # English has six recordings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language_column": "langage"}, "'langage'; did you mean 'language'"),
        (
            {"language_column": "language", "sampling_alpha": 2},
            "data.sampling_alpha is 2; give a number between 0 and 1",
        ),
        ({"language_column": "language", "streaming": True}, "data.language_column is for stored data"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(InputError, match=message):
        prepare_speech(SpeechDataArguments(path="sample:speech", **settings), seed=0, encoder=None)


def test_a_recording_without_a_language():
    with pytest.raises(InputError, match=r"1 recordings have no language .* first row 1"):
        language_repeats(["it", None, "sw"], [1.0, 1.0, 1.0], 0.5)

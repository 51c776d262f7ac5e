"""The beam searches against all alignments, and against a plain prefix beam search."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import ctc_loss

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.hypothesis import Beam, Weights
from hf_ssl.evaluation.recognition.lexicon import Lexicon
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary
from tests.evaluation.recognition.ctc_by_hand import (
    language_model,
    letters,
    peaked_log_probs,
    prefix_beam_search,
    random_log_probs,
    sums,
)

pytest.importorskip("flashlight.lib.text")
from hf_ssl.evaluation.recognition.beam import LetterDecoder, WordDecoder

TOKENIZER, VOCABULARY = letters("ab")
BLANK, BOUNDARY, A, B = 0, 2, 3, 4
EVERYTHING = Beam(size=100_000, threshold=5000.0, num_best=100_000)  # less than what is impossible is below
PHONES = CTCVocabulary(tokens=("<pad>", "aa", "b", "t͡ʃ"), blank=0, boundary=None, silent=frozenset(), phones=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of n-gram models, and ln P under each."""
    folder = tmp_path_factory.mktemp("lm")
    word_model, of_words = language_model(["a b", "ab a", "b", "ab ba a", "a a"], order=2)
    letter_model, of_letters = language_model(["a b", "ab a", "ba", "aab"], order=3, unit="letters")
    word_model.save(folder / "words.arpa")
    letter_model.save(folder / "letters.arpa")
    return {"words": (folder / "words.arpa", of_words), "letters": (folder / "letters.arpa", of_letters)}


@pytest.mark.parametrize("num_frames", [0, 1, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_letters_have_the_probability_of_all_their_alignments(models, num_frames, seed):
    file, lm = models["letters"]
    log_probs = random_log_probs(seed, num_frames, 5)
    weights = Weights(ngram=0.7, word=-0.4)
    expected: dict[str, list[float]] = {}
    for tokens, acoustic in sums(log_probs, VOCABULARY).items():
        text, ngram = VOCABULARY.text(tokens), lm([VOCABULARY.tokens[token] for token in tokens])
        score = acoustic + 0.7 * ngram - 0.4 * len(text.split())
        # One text may be written with several boundaries in a row, which the language model finds improbable.
        expected[text] = max(expected.get(text, [-math.inf]), [score, acoustic, ngram])
    found = LetterDecoder(VOCABULARY, file, weights, EVERYTHING).decode(log_probs)
    assert len(found) == len(expected)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for h in found:
        assert [h.score, h.acoustic, h.ngram] == pytest.approx(expected[h.text], abs=1e-3)
        assert (h.num_frames, h.num_tokens) == (num_frames, len(h.text.replace(" ", "")))


@pytest.mark.parametrize("seed", [0, 1])
def test_words_have_the_probability_of_all_their_alignments(models, seed):
    file, lm = models["words"]
    log_probs = random_log_probs(seed, 5, 5)
    weights = Weights(ngram=0.7, word=-0.4)
    words = {"a", "ab", "ba", "abb"}  # the last one is unknown to the language model, which knows b
    acoustic: dict[str, float] = {}
    for tokens, score in sums(log_probs, VOCABULARY).items():
        text = VOCABULARY.text(tokens)
        if set(text.split()) <= words:
            acoustic[text] = np.logaddexp(acoustic.get(text, -math.inf), score)
    lexicon = Lexicon.spelled(sorted(words), VOCABULARY)
    found = WordDecoder(VOCABULARY, lexicon, file, weights, EVERYTHING).decode(log_probs)
    assert {h.text for h in found} == set(acoustic)
    for h in found:
        ngram = lm(h.text.split())
        score = acoustic[h.text] + 0.7 * ngram - 0.4 * len(h.text.split())
        assert [h.score, h.acoustic, h.ngram] == pytest.approx([score, acoustic[h.text], ngram], abs=1e-3)
        assert h.num_tokens == len(h.text.replace(" ", ""))


def test_a_prefix_beam_search_finds_the_same(models):
    """Eight frames of phones, without a boundary: every sequence of them, best first."""
    model, lm = language_model(["aa b", "b b aa", "t͡ʃ aa"], order=2, unit="phones")
    file = models["words"][0].parent / "phones.arpa"
    model.save(file)
    log_probs = random_log_probs(2, 8, 4)
    expected = prefix_beam_search(log_probs, PHONES, lm, weight=0.8)
    found = LetterDecoder(PHONES, file, Weights(ngram=0.8), EVERYTHING).decode(log_probs)
    by_text = {PHONES.text(tokens): score for tokens, score in expected.items() if score > -math.inf}
    assert {h.text: h.score for h in found} == pytest.approx(by_text, abs=1e-3)
    assert found[0].text == max(by_text, key=by_text.__getitem__)


def test_the_acoustic_score_is_ctc_s(models):
    """Of a longer recording, which torch's CTC loss measures."""
    log_probs = peaked_log_probs([A, 0, A, 0, 2, B, B, 0, A, 0, 0, 2, B, 0], 5, margin=3.0)
    (best,) = LetterDecoder(VOCABULARY, models["letters"][0], Weights(ngram=0.2), Beam(500, 100)).decode(log_probs)
    assert best.text == "aa ba b"
    targets = torch.tensor(TOKENIZER(best.text)["input_ids"])
    # Silent tokens are left out of the sum over alignments, as out of this one's targets.
    loss = ctc_loss(torch.from_numpy(log_probs), targets, (len(log_probs),), (len(targets),), blank=0, reduction="sum")
    assert best.acoustic == pytest.approx(-loss.item(), abs=1e-3)


def test_a_narrow_beam_keeps_the_best_and_no_more(models):
    log_probs = random_log_probs(4, 12, 5)
    wide = LetterDecoder(VOCABULARY, models["letters"][0], Weights(0.5), Beam(2000, 1e6, num_best=3)).decode(log_probs)
    narrow = LetterDecoder(VOCABULARY, models["letters"][0], Weights(0.5), Beam(20, 1e6, num_best=3)).decode(log_probs)
    assert len(wide) == len(narrow) == 3
    assert len({h.text for h in wide}) == 3
    assert narrow[0].score <= wide[0].score + 1e-6


def test_the_language_model_decides_between_words_that_sound_alike(models):
    """The frames say "b a" or "b b" alike; in the model's text a follows b and ends, b does not follow b."""
    log_probs = peaked_log_probs([B, 2, 0], 5, margin=30.0)
    unsure = np.full((1, 5), -20.0, dtype=np.float32)
    unsure[0, [A, B]] = math.log(0.5)
    log_probs = np.concatenate([log_probs, unsure])
    file, lm = models["words"]
    expected = max(("b a", "b b"), key=lambda text: lm(text.split()))
    lexicon = Lexicon.spelled(["a", "b"], VOCABULARY)
    decoder = WordDecoder(VOCABULARY, lexicon, file, Weights(ngram=1.0), Beam())
    assert decoder.decode(log_probs)[0].text == expected
    decoder.set(Weights(word=-22.0), Beam())  # dearer than to overhear the last word, cheaper than the first
    assert decoder.decode(log_probs)[0].text == "b"


def test_a_word_with_two_spellings_is_one_word():
    vocabulary = CTCVocabulary(("<pad>", "|", "a", "b"), blank=0, boundary=1, silent=frozenset(), phones=False)
    lexicon = Lexicon({"x": [(2,), (3,)], "y": [(2, 3)]})
    log_probs = random_log_probs(0, 1, 4)
    found = {
        h.text: h.acoustic for h in WordDecoder(vocabulary, lexicon, None, Weights(), EVERYTHING).decode(log_probs)
    }
    assert found["x"] == pytest.approx(np.logaddexp(log_probs[0, 2], log_probs[0, 3]), abs=1e-4)
    assert found[""] == pytest.approx(np.logaddexp(log_probs[0, 0], log_probs[0, 1]), abs=1e-4)


def test_a_published_lexicon_of_capitals():
    vocabulary = CTCVocabulary(("<pad>", "|", "A", "B"), blank=0, boundary=1, silent=frozenset(), phones=False)
    decoder = WordDecoder(vocabulary, Lexicon({"AB": [(2, 3)]}))
    assert decoder.decode(peaked_log_probs([2, 3, 1, 2, 3], 4, margin=9.0))[0].text == "ab ab"


def test_a_recording_that_ends_within_a_word_has_a_transcript():
    lexicon = Lexicon.spelled(["aba"], VOCABULARY)
    log_probs = peaked_log_probs([A, B], 5, margin=60.0)
    assert WordDecoder(VOCABULARY, lexicon, None, Weights(), Beam(threshold=1e6)).decode(log_probs)[0].text == ""


@pytest.mark.parametrize("kind", ["letters", "words"])
def test_tokens_that_are_no_letters_are_never_found(models, kind):
    log_probs = peaked_log_probs([1, A, 1, 1, B], 5, margin=8.0)  # 1: the unknown character
    decoder = (
        LetterDecoder(VOCABULARY, models["letters"][0])
        if kind == "letters"
        else WordDecoder(VOCABULARY, Lexicon.spelled(["a", "ab"], VOCABULARY), models["words"][0])
    )
    assert decoder.decode(log_probs)[0].text == "ab"


def test_impossible_frames_stay_numbers():
    log_probs = np.full((3, 5), -np.inf, dtype=np.float32)
    log_probs[:, A] = 0.0
    (best,) = LetterDecoder(VOCABULARY).decode(log_probs)
    assert (best.text, best.acoustic) == ("a", pytest.approx(0.0, abs=1e-6))


def test_a_model_without_a_token_between_words_finds_no_words():
    with pytest.raises(InputError, match="no token between words"):
        WordDecoder(PHONES, Lexicon({"ab": [(1, 2)]}))


def test_language_models_that_kenlm_cannot_read(tmp_path):
    (tmp_path / "broken.arpa").write_text("\\data\\\nngram 1=5\n")
    with pytest.raises(InputError, match=r"broken\.arpa cannot be read by KenLM"):
        LetterDecoder(VOCABULARY, tmp_path / "broken.arpa")
    model, _ = language_model(["abababab", "ab ab ab ab"], order=7, unit="letters")
    model.save(tmp_path / "seven.arpa")
    with pytest.raises(InputError, match="order 7 but KenLM was compiled to support up to 6"):
        LetterDecoder(VOCABULARY, tmp_path / "seven.arpa")

import itertools

import numpy as np
import pytest

from hf_ssl.evaluation.recognition.greedy import GreedyDecoder
from tests.evaluation.recognition.ctc_by_hand import all_paths, letters, peaked_log_probs, random_log_probs

TOKENIZER, VOCABULARY = letters("abc")


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_alignments(seed):
    log_probs = random_log_probs(seed, 4, 6)
    path, score = max(all_paths(log_probs, VOCABULARY.silent), key=lambda item: item[1])
    (found,) = GreedyDecoder(VOCABULARY).decode(log_probs)
    assert found.score == found.acoustic == pytest.approx(score, abs=1e-5)
    assert found.text == VOCABULARY.text([token for token, _ in itertools.groupby(path) if token])


def test_it_writes_what_transformers_does():
    log_probs = peaked_log_probs([2, 3, 3, 0, 3, 2, 0, 2, 4, 5, 5, 2], 6, margin=9.0)
    (found,) = GreedyDecoder(VOCABULARY).decode(log_probs)
    # transformers leaves a space for each boundary that blanks separate.
    assert found.text == " ".join(TOKENIZER.decode(log_probs.argmax(axis=1)).split()) == "aa bc"
    assert (found.num_words, found.num_tokens, found.num_frames) == (2, 4, 12)


@pytest.mark.parametrize("path", [[], [0, 0], [2, 2, 0, 2], [1, 1]])
def test_nothing_heard_is_an_empty_text(path):
    log_probs = peaked_log_probs(path, 6, margin=9.0)
    log_probs[:, 3:] = -99.0
    (found,) = GreedyDecoder(VOCABULARY).decode(log_probs)
    assert (found.text, found.num_words, found.num_tokens, found.num_frames) == ("", 0, 0, len(path))


def test_tokens_that_no_transcript_holds_are_never_chosen():
    log_probs = peaked_log_probs([1, 1, 1], 6, margin=9.0)
    second = np.delete(log_probs, 1, axis=1).max(axis=1)
    (found,) = GreedyDecoder(VOCABULARY).decode(log_probs)
    assert found.score == pytest.approx(second.sum(), abs=1e-5)

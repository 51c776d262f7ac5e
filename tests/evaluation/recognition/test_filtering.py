import math
import statistics

import numpy as np
import pytest

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.filtering import FilteringScore

RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(5, 60, 400)
SCORES = -0.7 * LENGTHS - 2 + 0.5 * np.sqrt(LENGTHS) * RANDOM.standard_normal(400)


def test_the_line_and_the_spread_are_found():
    score = FilteringScore.fit(SCORES, LENGTHS)
    assert score.slope == pytest.approx(-0.7, abs=0.02)
    assert score.intercept == pytest.approx(-2, abs=0.4)
    assert score.spread == pytest.approx(0.5, rel=0.1)


def test_the_score_is_the_papers():
    score = FilteringScore(slope=-0.5, intercept=-1.0, spread=2.0)
    assert score(-8.0, 9) == pytest.approx((-8 + 0.5 * 9 + 1) / (2 * 3))


def test_a_usual_transcript_scores_nought_at_every_length():
    score = FilteringScore.fit(SCORES, LENGTHS)
    values = [score(s, n) for s, n in zip(SCORES, LENGTHS, strict=True)]
    short = [v for v, n in zip(values, LENGTHS, strict=True) if n < 20]
    long = [v for v, n in zip(values, LENGTHS, strict=True) if n > 40]
    for part in (short, long):
        assert statistics.fmean(part) == pytest.approx(0, abs=0.25)
        assert statistics.stdev(part) == pytest.approx(1, abs=0.2)


def test_an_empty_transcript_is_never_trusted():
    score = FilteringScore.fit([*SCORES, 0.0], [*LENGTHS, 0])
    assert score == FilteringScore.fit(SCORES, LENGTHS)
    assert score(0.0, 0) == -math.inf


@pytest.mark.parametrize(("scores", "lengths"), [([-1.0], [3]), ([-1.0, -2.0, -3.0], [4, 4, 4]), ([], [])])
def test_too_few_transcripts_are_refused(scores, lengths):
    with pytest.raises(InputError, match="transcripts of several lengths"):
        FilteringScore.fit(scores, lengths)

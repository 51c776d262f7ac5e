import pytest

from hf_ssl.errors import InputError
from hf_ssl.evaluation.metrics import load_metric
from hf_ssl.evaluation.recognition.error_rates import count_errors

REFERENCES = ["the cat sat", "a", "no one knows"]
TRANSCRIPTS = ["the cat sat down", "", "noone nose"]


@pytest.mark.parametrize(
    ("metric", "errors", "units"), [("wer", [1, 1, 3], [3, 1, 3]), ("cer", [5, 1, 4], [11, 1, 12])]
)
def test_errors_of_each_recording(metric, errors, units):
    counts = count_errors(REFERENCES, TRANSCRIPTS, metric)
    assert (counts.errors, counts.units) == (errors, units)
    whole = load_metric(metric).compute(predictions=TRANSCRIPTS, references=REFERENCES)[metric]
    assert counts.value == counts.rate().value == pytest.approx(whole)


def test_phones_are_counted_like_words():
    counts = count_errors(["AA1 B t͡ʃ"], ["AA1 t͡ʃ"], "per")
    assert (counts.errors, counts.units) == ([1], [3])


def test_what_is_better_has_fewer_errors():
    better, worse = (count_errors(["a b"] * 9, [text] * 9, "wer") for text in ("a b", "a c"))
    assert better.less(worse).value == -0.5
    assert better.less(worse).improved == 1.0


def test_nothing_to_compare_with():
    with pytest.raises(InputError, match="has a transcript"):
        count_errors([], [], "wer")

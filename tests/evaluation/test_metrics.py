import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hf_ssl.errors import InputError
from hf_ssl.evaluation.metrics import METRICS, load_metric

REFERENCES = [0, 0, 0, 0, 1, 1, 2, 2]
PREDICTIONS = [0, 0, 0, 1, 1, 0, 2, 3]


def value_of(name, predictions, references):
    result = load_metric(name).compute(predictions=predictions, references=references)
    assert type(result[name]) is float  # a numpy float would not be written to JSON
    json.dumps(result)
    return result[name]


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("accuracy", 5 / 8),
        ("balanced_accuracy", (3 / 4 + 1 / 2 + 1 / 2) / 3),
        ("macro_f1", (2 * 3 / (4 + 4) + 2 * 1 / (2 + 2) + 2 * 1 / (1 + 2) + 0) / 4),
        ("micro_f1", 5 / 8),
    ],
)
def test_classification_by_hand(name, by_hand):
    assert value_of(name, PREDICTIONS, REFERENCES) == pytest.approx(by_hand)


def test_matthews_correlation_of_two_classes_by_hand():
    tp, tn, fp, fn = 3, 2, 1, 2
    predictions, references = [1] * tp + [0] * tn + [1] * fp + [0] * fn, [1] * tp + [0] * tn + [0] * fp + [1] * fn
    by_hand = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert value_of("matthews_correlation", predictions, references) == pytest.approx(by_hand)
    assert value_of("matthews_correlation", [1, 1, 1], [0, 1, 1]) == 0


def test_error_rates_count_over_the_whole_corpus():
    references = ["the cat sat", "a"]
    predictions = ["the hat sat down", "a"]  # one substitution and one insertion in 4 words
    assert value_of("wer", predictions, references) == pytest.approx(2 / 4)
    assert value_of("cer", ["abcd", "x"], ["abc", "xyz"]) == pytest.approx(3 / 6)
    assert value_of("wer", ["one two three"], ["four"]) == 3
    assert value_of("per", ["t͡ʃ a: o", "AA1"], ["t͡ʃ a o", "AA1 n"]) == pytest.approx(2 / 5)


def test_correlations():
    predictions, references = [1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0]
    assert value_of("pearson", predictions, references) == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    assert value_of("spearman", predictions, references) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert value_of("pearson", [2.0, 2.0], [1.0, 3.0]) == 0


def test_class_of_predictions_that_no_reference_has():
    expected = sklearn_metrics.f1_score(REFERENCES, PREDICTIONS, average="macro")
    assert value_of("macro_f1", PREDICTIONS, REFERENCES) == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_to_compare_is_an_error(name):
    with pytest.raises(InputError, match=f"no predictions to compute {name} of"):
        load_metric(name).compute(predictions=[], references=[])


def test_an_empty_transcript_is_an_error():
    with pytest.raises(InputError, match="Reference 1 is empty"):
        load_metric("wer").compute(predictions=["a", "b"], references=["a", " "])


def test_unequal_numbers_are_an_error():
    with pytest.raises(ValueError, match="Mismatch"):
        load_metric("accuracy").compute(predictions=[1, 2], references=[1])


def test_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="balanced_accuracy"):
        load_metric("balance_accuracy")


def test_batches_add_up_and_no_file_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = load_metric("accuracy")
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add_batch(predictions=[0], references=[0])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    assert list(tmp_path.iterdir()) == []

"""What is stored of the exits is what inference that stops does with them."""

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, set_seed

from hf_ssl.errors import InputError
from hf_ssl.evaluation.early_exit.curve import spread_thresholds
from hf_ssl.evaluation.early_exit.timing import leaving
from hf_ssl.modeling.early_exit.base import EarlyExitModel
from hf_ssl.trainers.exit_records import exit_batches, exit_records
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.scoring import item_errors, make_scorer
from hf_ssl.trainers.task_data import TaskData, prepare_task
from hf_ssl.trainers.task_model import make_task_model
from tests.trainers.fine_tuning_cases import Cases

TASKS = ["text-classification", "token-classification", "image-classification", "audio-classification", "ctc"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def untrained(cases: Cases, task: str, **exits) -> tuple[EarlyExitModel, TaskData]:
    """A model whose exits are certain and uncertain, and its training items."""
    arguments = FineTuningModelArguments(encoder=cases.encoder(task), task=task, exits={"layers": "all", **exits})
    data = prepare_task(arguments, cases.data(task, max_train_items=None if task == "ctc" else 40))
    set_seed(0)
    model = make_task_model(arguments, data.config_updates)
    with torch.no_grad():
        for head in model.exits:
            head.classifier.weight.normal_()
    return model.eval(), data


@pytest.mark.parametrize("task", TASKS)
def test_stored_policies_are_those_of_inference(cases, task):
    learns = task in ("text-classification", "token-classification")
    model, data = untrained(cases, task, learn_to_exit=learns)
    records = exit_records(model, data, "train")
    assert records.num_items == len(data.splits["train"])
    assert records.kind == {"token-classification": "words", "ctc": "recordings"}.get(task, "classes")
    assert set(records.certainty) >= {"entropy", "max_probability", "margin", "patience"}
    assert ("learned" in records.certainty) == learns
    for policy in records.certainty:
        for threshold in spread_thresholds(records, policy, 3):
            taken = records.exits_taken(policy, np.array([threshold]))[0]
            said, start = records.chosen(taken), 0
            for batch in exit_batches(model, data, "train"):
                labels = batch.pop("labels")
                with leaving(model, policy, threshold), torch.no_grad():
                    output = model(**batch)
                rows = slice(start, start := start + len(labels))
                assert output.exit_layer.tolist() == [records.layers[exit_index] for exit_index in taken[rows]]
                classes = output.logits.argmax(dim=-1).numpy()
                expected = said[rows] if classes.ndim == 1 else said[rows, : classes.shape[1]]
                real = expected != -100
                assert (classes[real] == expected[real]).all()
            assert start == records.num_items


def test_errors_of_items_add_up_to_the_scores(cases):
    model, data = untrained(cases, "text-classification")
    records = exit_records(model, data, "train")
    score = make_scorer(["accuracy"], data.processor)
    for said, errors in zip(records.predictions, records.errors, strict=True):
        assert 1 - errors.mean() == pytest.approx(score(EvalPrediction(said, records.labels))["accuracy"])
        assert set(errors) <= {0, 1}
    assert records.disagreements[-1].max() == 0
    assert (records.disagreements[0] == (records.predictions[0] != records.predictions[-1])).all()


def test_errors_of_words_and_of_recordings(cases):
    _, words = untrained(cases, "token-classification")
    labels = np.array([[0, 1, -100, 1], [2, -100, -100, -100], [-100] * 4])
    said = np.array([[0, 0, 3, 0], [2, 1, 1, 1], [1] * 4])
    assert item_errors(EvalPrediction(said, labels), words.processor).tolist() == [pytest.approx(2 / 3), 0, 0]
    model, speech = untrained(cases, "ctc")
    blank, spoken = speech.processor.tokenizer.pad_token_id, [[3, 4, 5], [5, 4, 3]]  # "abc" and "cba"
    frames = np.array([[spoken[0][0], blank, spoken[0][1], spoken[0][1], -100, -100], [*spoken[0], *spoken[0]]])
    prediction = EvalPrediction(frames, np.array([[*spoken[0]], [*spoken[1]]]))
    # "ab" for "abc"; and "abcabc" for "cba" is more errors than letters
    assert item_errors(prediction, speech.processor).tolist() == [pytest.approx(1 / 3), 1.0]
    records = exit_records(model, speech, "train")
    assert records.errors.shape == records.disagreements.shape == (2, 8)
    assert records.disagreements[-1].max() == 0
    assert ((records.errors >= 0) & (records.errors <= 1)).all()
    silent = EvalPrediction(np.full((1, 4), blank), frames[:1])
    assert item_errors(silent, speech.processor, against_labels=False).tolist() == [1.0]
    assert item_errors(EvalPrediction(frames[:1], silent.predictions), speech.processor, False).tolist() == [1.0]


def test_a_split_that_there_is_not(cases):
    model, data = untrained(cases, "image-classification")
    with pytest.raises(InputError, match="There is no split of the data 'validation'"):
        exit_records(model, data, "validation")

import math

import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.modeling.early_exit.policies import (
    agrees,
    check_policy,
    exit_scores,
    exits_taken,
    highest_score,
    over_positions,
    score,
)


def naive_entropy(logits):
    """FastBERT, equation 6: the uncertainty is Σ p log p / log(1/C); certain is what is not uncertain."""
    total = sum(math.exp(x) for x in logits)
    probabilities = [math.exp(x) / total for x in logits]
    return 1 - sum(p * math.log(p) for p in probabilities) / math.log(1 / len(logits))


def naive_max_probability(logits):
    return max(math.exp(x) for x in logits) / sum(math.exp(x) for x in logits)


def naive_margin(logits):
    second, first = sorted(math.exp(x) for x in logits)[-2:]
    return (first - second) / sum(math.exp(x) for x in logits)


NAIVE = {"entropy": naive_entropy, "max_probability": naive_max_probability, "margin": naive_margin}


@pytest.mark.parametrize("policy", NAIVE)
def test_scores_of_rows(policy):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3
    expected = torch.tensor([NAIVE[policy](row.tolist()) for row in logits])
    torch.testing.assert_close(score(policy, logits), expected)


@pytest.mark.parametrize("policy", NAIVE)
@pytest.mark.parametrize("reduction", ["least", "mean"])
def test_scores_of_sequences_count_no_padding(policy, reduction):
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    reduce = min if reduction == "least" else (lambda values: sum(values) / len(values))
    expected = [reduce([NAIVE[policy](at.tolist()) for at in row[:length]]) for row, length in zip(logits, (3, 2))]  # noqa: B905
    torch.testing.assert_close(score(policy, logits, mask, reduction), torch.tensor(expected))
    logits[1, 2] = torch.tensor([100.0, 0, 0, 0])
    torch.testing.assert_close(score(policy, logits, mask, reduction), torch.tensor(expected))


@pytest.mark.parametrize(("policy", "even"), [("entropy", 0.0), ("max_probability", 0.25), ("margin", 0.0)])
def test_between_even_logits_and_one_class_alone(policy, even):
    logits = torch.tensor([[2.0, 2, 2, 2], [100, 0, 0, 0]])
    torch.testing.assert_close(score(policy, logits), torch.tensor([even, 1.0]), atol=1e-6, rtol=0)
    assert (score(policy, logits.half()) <= 1).all()


def test_a_row_without_positions_is_certain():
    values, mask = torch.zeros(1, 3), torch.zeros(1, 3)
    assert over_positions(values, mask, "least").tolist() == over_positions(values, mask, "mean").tolist() == [1.0]


def naive_patience(predictions, patience):
    """PABEE, section 3.2: the counter is 0 at first and where the prediction changes; it stops at patience."""
    counter, last = 0, None
    for exit_index, prediction in enumerate(predictions):
        counter = counter + 1 if prediction == last else 0
        last = prediction
        if counter == patience:
            return exit_index
    return len(predictions) - 1


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience(patience):
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(2, (6, 40), generator=generator)
    logits = [torch.nn.functional.one_hot(of_exit, 2).float() for of_exit in predictions]
    taken = exits_taken(exit_scores("patience", logits), [patience - 1.0] * 5)
    expected = [naive_patience(row.tolist(), patience) for row in predictions.T]
    assert taken.tolist() == expected
    assert len(set(expected)) > 2


def test_sequences_agree_at_all_their_positions():
    previous = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    predictions = torch.tensor([[1, 2, 3], [1, 2, 0], [0, 2, 3]])
    assert agrees(predictions, previous).tolist() == [True, False, False]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    assert agrees(predictions, previous, mask).tolist() == [True, True, False]


def test_the_first_exit_that_is_certain_enough_is_taken_else_the_last():
    scores = torch.tensor([[0.5, 0.9, 0.1, 0.3], [0.6, 0.1, 0.9, 0.3], [0.0, 0.0, 0.0, 0.0]])
    assert exits_taken(scores, [0.5, 0.55]).tolist() == [1, 0, 1, 2]


def test_learned_scores_are_the_wrongness_turned_round():
    errors = [torch.tensor([0.25, 1.0]), torch.tensor([0.5, 0.0])]
    logits = [torch.zeros(2, 3)] * 2
    assert exit_scores("learned", logits, errors).tolist() == [[0.75, 0.0], [0.5, 1.0]]


@pytest.mark.parametrize("policy", NAIVE)
def test_all_exits_are_scored_as_each_is(policy):
    logits = [torch.randn(3, 4), torch.randn(3, 4)]
    assert torch.equal(exit_scores(policy, logits), torch.stack([score(policy, at) for at in logits]))


def test_what_no_score_can_exceed():
    assert highest_score("entropy", 5) == 1
    assert [highest_score("patience", index) for index in range(3)] == [0, 1, 2]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'entropy'"):
        check_policy("entropi")
    with pytest.raises(InputError, match="did you mean 'margin'"):
        score("margins", torch.zeros(1, 2))
    with pytest.raises(InputError, match="did you mean 'mean'"):
        over_positions(torch.zeros(1, 2), None, "means")

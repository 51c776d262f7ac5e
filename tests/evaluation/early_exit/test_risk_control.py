"""Learn then Test: p-values against sums written from the paper, and the promise against many calibrations."""

import math

import numpy as np
import pytest

from hf_ssl.evaluation.early_exit.risk_control import fixed_sequence, hoeffding_bentkus, items_needed, p_values


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    return sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(successes + 1))


def divergence(a: float, b: float) -> float:
    left = 0.0 if a == 0 else a * math.log(a / b)
    return left + (1 - a) * math.log((1 - a) / (1 - b))


def test_losses_of_zero_and_one_have_the_binomial_tail():
    losses = np.zeros((4, 40))
    for setting, lost in enumerate((0, 1, 3, 20)):
        losses[setting, :lost] = 1
    expected = [binomial_tail(lost, 40, 0.1) for lost in (0, 1, 3, 20)]
    np.testing.assert_allclose(p_values(losses, 0.1), expected, rtol=1e-10)


def test_hoeffding_bentkus_is_the_papers():
    losses = np.random.default_rng(0).random((5, 50)) * np.array([[0.0], [0.05], [0.2], [0.6], [1.0]])
    for bound in (0.05, 0.3):
        expected = []
        for row in losses:
            mean = sum(row) / 50
            hoeffding = math.exp(-50 * divergence(min(mean, bound), bound))
            bentkus = math.e * binomial_tail(math.ceil(sum(row)), 50, bound)
            expected.append(min(1.0, hoeffding, bentkus))
        np.testing.assert_allclose(hoeffding_bentkus(losses, bound), expected, rtol=1e-9)
        np.testing.assert_allclose(p_values(losses, bound), expected, rtol=1e-9)


def test_testing_stops_at_the_first_setting_that_fails():
    assert fixed_sequence(np.array([0.01, 0.03, 0.2, 0.001]), 0.05) == 1
    assert fixed_sequence(np.array([0.05, 0.05]), 0.05) == 1
    assert fixed_sequence(np.array([0.06, 0.0]), 0.05) is None


@pytest.mark.parametrize(("bound", "level"), [(0.01, 0.05), (0.05, 0.1), (0.2, 0.01)])
def test_fewer_items_than_needed_can_promise_nothing(bound, level):
    enough = items_needed(bound, level)
    assert p_values(np.zeros((1, enough)), bound)[0] <= level < p_values(np.zeros((1, enough - 1)), bound)[0]
    assert hoeffding_bentkus(np.zeros((1, enough)), bound)[0] <= level


@pytest.mark.parametrize("kind", ["lost or not", "shares"])
def test_the_promise_holds_as_often_as_it_says(kind):
    """Settings whose true risk rises from 0 through α: in 1,000 calibrations the chosen one is riskier in at most δ.

    The losses of one item under all settings depend on each other as those of thresholds do: by one hidden value.
    """
    random, bound, level, num_items, draws = np.random.default_rng(0), 0.1, 0.1, 150, 1000
    risks = np.linspace(0.0, 0.25, 26)
    violations = chosen_risks = 0
    for _ in range(draws):
        hidden = random.random(num_items)
        losses = (hidden[None] < risks[:, None]).astype(float)
        if kind == "shares":
            losses = np.minimum(1.0, 2 * risks[:, None] * hidden[None])  # mean `risks`
        last = fixed_sequence(p_values(losses, bound), level)
        assert last is not None  # a setting of no risk is always accepted with so many items
        violations += risks[last] > bound
        chosen_risks += risks[last]
    # three standard deviations of what chance may add to the frequency
    assert violations / draws <= level + 3 * math.sqrt(level * (1 - level) / draws)
    assert chosen_risks / draws > 0.4 * bound  # and it is no empty promise


def test_a_naive_choice_breaks_the_promise():
    """The riskiest setting whose mean loss is within the bound: what the tests are there to prevent."""
    random, bound = np.random.default_rng(0), 0.1
    risks = np.linspace(0.0, 0.25, 26)
    violations = 0
    for _ in range(500):
        losses = random.random(150)[None] < risks[:, None]
        violations += risks[np.flatnonzero(losses.mean(axis=1) <= bound)[-1]] > bound
    assert violations / 500 > 0.3

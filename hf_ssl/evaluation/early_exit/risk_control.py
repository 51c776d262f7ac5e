"""Learn then Test: choosing a setting whose risk is bounded with a wanted probability, from finitely many items.

Angelopoulos, Bates, Candès, Jordan & Lei 2021, arXiv:2110.01052; used for early exit by CALM (Schuster et al. 2022,
arXiv:2207.07061, section 4). For each setting λ the null hypothesis "the risk R(λ) is more than α" is tested; with
fixed-sequence testing, in an order that was settled before the items were seen, the chance that any setting is
accepted wrongly is at most δ. Neither the distribution of the items nor how the risk depends on λ matters, only that
the items are independent and distributed as those to come.
"""

# N items, S settings, R̂ the mean loss

import math

import numpy as np
from scipy.stats import binom


def p_values(losses: np.ndarray, bound: float) -> np.ndarray:
    """How probable a mean loss as small as this is, at most, if the risk is more than the bound.

    Args:
        losses (`ndarray` of shape `(S, N)`): of each item under each setting, in [0, 1].
        bound (`float`): α, in (0, 1).

    Returns:
        `ndarray` of shape `(S,)`: of losses that are all 0 or 1, the exact binomial tail; else
            [`hoeffding_bentkus`].
    """
    if np.isin(losses, (0.0, 1.0)).all():
        return binom.cdf(losses.sum(axis=1), losses.shape[1], bound)
    return hoeffding_bentkus(losses, bound)


def hoeffding_bentkus(losses: np.ndarray, bound: float) -> np.ndarray:
    """The p-value for losses anywhere in [0, 1] (Bates et al. 2021, arXiv:2101.02703; LTT's own choice).

    min(exp(−N h(min(R̂, α), α)), e · P(Bin(N, α) ≤ ⌈N R̂⌉)), h(a, b) = a ln(a/b) + (1 − a) ln((1 − a)/(1 − b)).

    Args:
        losses (`ndarray` of shape `(S, N)`): in [0, 1].
        bound (`float`): α, in (0, 1).
    """
    num_items, mean = losses.shape[1], losses.mean(axis=1)
    below = np.minimum(mean, bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(below > 0, below * np.log(below / bound), 0.0)  # 0 ln 0 = 0
    divergence = left + (1 - below) * (np.log1p(-below) - math.log1p(-bound))
    bentkus = math.e * binom.cdf(np.ceil(losses.sum(axis=1)), num_items, bound)
    return np.minimum(1.0, np.minimum(np.exp(-num_items * divergence), bentkus))


def fixed_sequence(values: np.ndarray, level: float) -> int | None:
    """The last of the settings accepted when they are tested one after the other, up to the first that is not.

    Args:
        values (`ndarray` of shape `(S,)`): p-values in the settled order, the safest setting first.
        level (`float`): δ.

    Returns:
        `int`: its number; `None` where not even the first is accepted.
    """
    failed = np.flatnonzero(values > level)
    num_accepted = int(failed[0]) if len(failed) else len(values)
    return num_accepted - 1 if num_accepted else None


def items_needed(bound: float, level: float) -> int:
    """The fewest items on which a setting can be accepted: those of which, at risk α, none is lost with chance ≤ δ."""
    return math.ceil(math.log(level) / math.log1p(-bound))

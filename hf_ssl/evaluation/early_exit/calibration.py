"""Choosing a threshold on validation: for a wanted speed, for a wanted loss, or with a promise."""

# E exits, N items, S thresholds

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_ssl.errors import InputError
from hf_ssl.evaluation.early_exit.records import RISKS, ExitRecords
from hf_ssl.evaluation.early_exit.risk_control import fixed_sequence, items_needed, p_values

EVEN_STEPS = np.linspace(0.0, 1.0, 101)
STEPS_NEAR_ONE = 1 - np.logspace(-6, 0, 121)
"""Where a confident classifier has most of its certainties: twenty thresholds a decade of doubt."""


@dataclass(frozen=True)
class Choice:
    """A threshold, and what it does on the items that it was chosen on.

    Args:
        policy (`str`): what the threshold is of.
        threshold (`float`): an item leaves where its certainty is above it.
        is_full_depth (`bool`): whether no item can leave early.
        mean_layers (`float`): that an item runs through.
        risks (`dict[str, float]`): mean of each of [`RISKS`].
        guarantee (`dict[str, Any]`, *optional*): what is promised of items to come.
    """

    policy: str
    threshold: float
    is_full_depth: bool
    mean_layers: float
    risks: dict[str, float]
    guarantee: dict[str, Any] | None = None


def candidates(policy: str, num_exits: int) -> np.ndarray:
    """The thresholds that one is chosen of, from the safest, at which nothing leaves early, to the fastest.

    They are settled before any item is seen, without which Learn then Test would promise too much.

    Args:
        policy (`str`): `"patience"` counts; the certainties of all others are in [0, 1].
        num_exits (`int`): E.

    Returns:
        `ndarray` of shape `(S,)`: falling.
    """
    if policy == "patience":
        return np.arange(num_exits - 1.0)[::-1]
    return np.unique(np.concatenate([EVEN_STEPS, STEPS_NEAR_ONE]))[::-1]


def for_speed(
    records: ExitRecords, policy: str, speed: float, measure: Callable[[float], float] | None = None
) -> Choice:
    """The safest threshold at which inference is so much faster than at full depth. It promises no score.

    Args:
        records ([`ExitRecords`]): of the validation items.
        policy (`str`): a key of its `certainty`.
        speed (`float`): at least 1.
        measure (`Callable[[float], float]`, *optional*): the speed-up at a threshold, as measured, which is asked
            about eight times; by default the layers of the model over those that an item runs through on average.

    Raises:
        InputError: for a speed below 1, or one that the exits do not reach.
    """
    if not speed >= 1:
        raise InputError(f"A speed of {speed:g} is slower than full depth; give at least 1, e.g. 1.5.")
    thresholds = candidates(policy, len(records.layers))
    if measure is None:
        speeds = records.layers[-1] / records.mean_layers(records.exits_taken(policy, thresholds))
        measure = dict(zip(thresholds, speeds, strict=True)).__getitem__
    place = bisect_left(thresholds, speed, key=measure)  # the speed rises as the threshold falls
    if place == len(thresholds):
        raise InputError(
            f"A speed of {speed:g} is out of reach: where everything leaves as early as it can, it is "
            f"{measure(thresholds[-1]):.2f}; ask for less, or train exits after earlier layers."
        )
    return _choice(records, policy, thresholds[place])


def for_loss(records: ExitRecords, policy: str, bound: float) -> Choice:
    """The fastest threshold whose loss on these items, averaged, is within the bound; of others it promises nothing.

    What is lost on one item makes up for what is gained on another: the error of the exits taken less that of full
    depth.

    Args:
        records ([`ExitRecords`]): of the validation items.
        policy (`str`): a key of its `certainty`.
        bound (`float`): in [0, 1).

    Raises:
        InputError: for a bound out of range.
    """
    if not 0 <= bound < 1:
        raise InputError(f"A loss of {bound:g} cannot be aimed at; give a share of the score, at least 0 and below 1.")
    thresholds = candidates(policy, len(records.layers))
    taken = records.exits_taken(policy, thresholds)
    lost = records.errors[taken, np.arange(records.num_items)].mean(axis=1) - records.errors[-1].mean()
    return _choice(records, policy, thresholds[np.flatnonzero(lost <= bound + 1e-12)[-1]])


def with_guarantee(records: ExitRecords, policy: str, bound: float, confidence: float, risk: str = "loss") -> Choice:
    """The fastest threshold of which it can be promised that its risk is within the bound.

    Of many draws of the validation items, at least the share `confidence` leads to a threshold whose risk, over all
    items that there could be, is at most the bound: Learn then Test with a fixed sequence, from full depth on.

    Args:
        records ([`ExitRecords`]): of the validation items, which neither the model nor its settings were fitted to.
        policy (`str`): a key of its `certainty`.
        bound (`float`): α, in (0, 1).
        confidence (`float`): 1 − δ, in (0, 1).
        risk (`str`): a key of [`RISKS`].

    Returns:
        [`Choice`]: full depth if of no other threshold it can be promised.

    Raises:
        InputError: for numbers out of range, or fewer items than any promise needs.
    """
    if not (0 < bound < 1 and 0 < confidence < 1):
        raise InputError(
            f"A risk of {bound:g} cannot be promised with confidence {confidence:g}; give both between 0 and 1, "
            "e.g. 0.01 and 0.95."
        )
    needed = items_needed(bound, 1 - confidence)
    if records.num_items < needed:
        raise InputError(
            f"{records.num_items} validation items are too few to promise a risk of at most {bound:g} with confidence "
            f"{confidence:g}; give at least {needed}, a larger risk, or do without a promise (no --confidence)."
        )
    thresholds = candidates(policy, len(records.layers))
    values = p_values(records.losses(records.exits_taken(policy, thresholds), risk), bound)
    last = fixed_sequence(values, 1 - confidence)
    assert last is not None  # at full depth nothing is lost, and of that there are items enough
    promise = {
        "risk": risk,
        "meaning": RISKS[risk][records.kind],
        "bound": bound,
        "confidence": confidence,
        "p_value": float(values[last]),
        "num_items": records.num_items,
    }
    return _choice(records, policy, thresholds[last], promise)


def _choice(records: ExitRecords, policy: str, threshold: float, promise: dict[str, Any] | None = None) -> Choice:
    taken = records.exits_taken(policy, np.array([threshold]))
    return Choice(
        policy=policy,
        threshold=float(threshold),
        is_full_depth=bool(threshold == candidates(policy, len(records.layers))[0]),
        mean_layers=float(records.mean_layers(taken)[0]),
        risks={risk: float(records.losses(taken, risk).mean()) for risk in RISKS},
        guarantee=promise,
    )

"""Score against speed: what every threshold costs in layers and in measured time, and the area under it."""

# S thresholds, N items, E exits

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hf_ssl.evaluation.early_exit.calibration import candidates
from hf_ssl.evaluation.early_exit.records import ExitRecords


@dataclass(frozen=True)
class CurvePoint:
    """One threshold.

    Args:
        threshold (`float`): an item leaves where its certainty is above it.
        depth (`float`): layers that an item runs through on average, over those of the model; in (0, 1].
        scores (`dict[str, float]`): of the exits taken.
        left (`list[float]`): the share of items that leave at each exit.
        time (`dict[str, float]`): by batch size, measured time over that of full depth; what was not measured is not
            there.
    """

    threshold: float
    depth: float
    scores: dict[str, float]
    left: list[float]
    time: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExitCurve:
    """The curve of one policy on one split.

    Args:
        policy (`str`): which.
        layers (`list[int]`): of the exits.
        points (`list[CurvePoint]`): from full depth to the fastest.
        num_items (`int`): N.
        settings (`dict[str, Any]`): data, split, command, hardware, and how time was measured.
    """

    policy: str
    layers: list[int]
    points: list[CurvePoint]
    num_items: int
    settings: dict[str, Any]

    def areas(self) -> dict[str, dict[str, float]]:
        """The [`area`] under each score: over `"depth"`, and over `"time at batch B"` as far as it was measured."""
        costs = {"depth": [point.depth for point in self.points]}
        for size in self.points[0].time:
            costs[f"time at batch {size}"] = [point.time[size] for point in self.points]
        names = self.points[0].scores
        return {
            kind: {name: area(cost, [point.scores[name] for point in self.points]) for name in names}
            for kind, cost in costs.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self) | {"areas": self.areas()}


def spread_thresholds(records: ExitRecords, policy: str, number: int) -> np.ndarray:
    """Thresholds from full depth to the fastest, whose mean depths on these items are about evenly spaced.

    Args:
        records ([`ExitRecords`]): of the validation items: the labels are not looked at.
        policy (`str`): a key of its `certainty`.
        number (`int`): at most so many, at least 2.

    Returns:
        `ndarray`: falling.
    """
    thresholds = candidates(policy, len(records.layers))
    layers = records.mean_layers(records.exits_taken(policy, thresholds))  # falls with the thresholds
    wanted = np.linspace(layers[0], layers[-1], number)
    nearest = np.abs(layers[None] - wanted[:, None]).argmin(axis=1)
    return thresholds[np.unique(nearest)]


def trace(
    records: ExitRecords,
    policy: str,
    thresholds: Sequence[float],
    score: Callable[[np.ndarray], dict[str, float]],
    times: dict[str, np.ndarray],
) -> list[CurvePoint]:
    """The points of the curve.

    Args:
        records ([`ExitRecords`]): of the items to score.
        policy (`str`): a key of its `certainty`.
        thresholds (`Sequence[float]`): S of them, falling.
        score (`Callable`): metrics of predictions (N,) or (N, T).
        times (`dict[str, ndarray]`): by batch size (S,): see [`hf_ssl.evaluation.early_exit.timing.relative_times`].
    """
    taken = records.exits_taken(policy, np.asarray(thresholds))
    depths = records.mean_layers(taken) / records.layers[-1]
    return [
        CurvePoint(
            threshold=float(thresholds[s]),
            depth=float(depths[s]),
            scores=score(records.chosen(taken[s])),
            left=(np.bincount(taken[s], minlength=len(records.layers)) / records.num_items).tolist(),
            time={size: float(measured[s]) for size, measured in times.items()},
        )
        for s in range(len(thresholds))
    ]


def area(costs: Sequence[float], scores: Sequence[float]) -> float:
    """The mean score over budgets: the area under the curve over the width of what it spans.

    Between two points the curve is straight: inference that tosses a coin between their thresholds is there on
    average. So it is ∫ s(c) dc / (c_max − c_min) by the trapezoidal rule, from the cheapest point to the dearest.

    Args:
        costs (`Sequence[float]`): depth or time relative to full depth, in any order.
        scores (`Sequence[float]`): at those costs.

    Returns:
        `float`: in the unit of the scores; the mean of the scores where all cost the same.
    """
    order = np.argsort(costs, kind="stable")
    cost, score = np.asarray(costs, dtype=float)[order], np.asarray(scores, dtype=float)[order]
    width = cost[-1] - cost[0]
    return float(np.trapezoid(score, cost) / width) if width > 0 else float(score.mean())

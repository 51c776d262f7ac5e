"""Learning rates over time, as factors of the peak."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hf_ssl.errors import InputError


def linear(step: int, *, warmup: int, total: int, final_scale: float = 0.0) -> float:
    """Linear warm-up, then linear to `final_scale` at `total` (fairseq's `polynomial_decay` with power 1; BERT,
    HuBERT).
    """
    if step < warmup:
        return step / warmup
    return final_scale + (1 - final_scale) * max(total - step, 0) / max(total - warmup, 1)


def cosine(step: int, *, warmup: int, total: int, final_scale: float = 0.0) -> float:
    """Linear warm-up, then half a cosine to `final_scale` at `total`, by step and not by epoch (SimCLR)."""
    if step < warmup:
        return step / warmup
    falling = 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))
    return final_scale + (1 - final_scale) * falling


def constant(step: int, *, warmup: int, total: int) -> float:
    """Linear warm-up, then the peak."""
    return min(step / warmup, 1.0) if warmup else 1.0


def tri_stage(
    step: int, *, warmup: int, total: int, hold: int, final_scale: float = 0.05, initial_scale: float = 0.01
) -> float:
    """Linear warm-up from `initial_scale`, hold, exponential decay to `final_scale` (wav2vec 2.0, fairseq's
    `tri_stage`).

    Args:
        step (`int`): optimiser steps done.
        warmup (`int`): steps of the warm-up.
        total (`int`): steps in all.
        hold (`int`): steps for which the peak is held.
        final_scale (`float`): last learning rate over the peak.
        initial_scale (`float`): first learning rate over the peak.
    """
    if step < warmup:
        return initial_scale + (1 - initial_scale) * step / warmup
    if step < warmup + hold:
        return 1.0
    decay = max(total - warmup - hold, 1)
    return math.exp(math.log(final_scale) * min((step - warmup - hold) / decay, 1.0))


def make_schedule(
    name: str, optimizer: Optimizer, *, warmup: int, total: int, hold_share: float, final_scale: float | None
) -> LambdaLR:
    """The schedule of a run.

    Args:
        name (`str`): one of [`hf_ssl.trainers.arguments.SCHEDULES`].
        optimizer (`Optimizer`): whose learning rates are the peaks. A group of parameters with a `"schedule"` of its
            own follows that one.
        warmup (`int`): steps of the warm-up.
        total (`int`): steps in all.
        hold_share (`float`): for the tri-stage schedule.
        final_scale (`float`, *optional*): last learning rate over the peak; by default the schedule's own.

    Raises:
        InputError: for a tri-stage schedule that has no steps left to decay in.
    """
    hold = round(hold_share * total)
    if name == "tri_stage" and warmup + hold > total:
        raise InputError(
            f"The warm-up takes {warmup} and the peak {hold} of {total} steps; lower training.warmup_steps or "
            "training.hold_share."
        )
    last: dict[str, Any] = {} if final_scale is None else {"final_scale": final_scale}
    factors: dict[str, Callable[[int], float]] = {
        "linear": partial(linear, warmup=warmup, total=total, **last),
        "cosine": partial(cosine, warmup=warmup, total=total, **last),
        "constant": partial(constant, warmup=warmup, total=total),
        "tri_stage": partial(tri_stage, warmup=warmup, total=total, hold=hold, **last),
    }
    return LambdaLR(optimizer, [factors[group.get("schedule", name)] for group in optimizer.param_groups])

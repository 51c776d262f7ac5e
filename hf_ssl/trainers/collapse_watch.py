"""Collapse is noticed, not suffered: what is logged is compared with bounds."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ssl.errors import InputError, unknown_name

logger = logging.getLogger(__name__)

SIGNS: dict[str, tuple[float, str]] = {
    "prediction_perplexity": (1.5, "one class is predicted everywhere"),
    "codebook_perplexity": (1.5, "one codeword stands for everything"),
    "prototypes_used": (1.5, "everything has the code of one prototype"),
    "clusters_used": (1.5, "everything is in one cluster"),
    "target_std": (0.1, "the teacher says the same of everything"),
    "prediction_std": (0.01, "the student says the same of everything"),
    "projection_std": (0.05, "all projections are the same"),
    "projection_spread": (0.05, "all projections have one direction"),
    "prediction_spread": (0.05, "all predictions have one direction"),
    "key_spread": (0.05, "all keys have one direction"),
    "neighbour_spread": (0.05, "all neighbours have one direction"),
    "kl_to_uniform": (0.01, "the teacher holds all prototypes for equally likely"),
    "patch_kl_to_uniform": (0.01, "the teacher holds all prototypes for equally likely in every patch"),
}
"""Of each logged value, below what it is a sign of collapse, and what it says. `target_std` and `prediction_std` have
data2vec's bounds; a spread is near 1 of random directions, see [`direction_spread`].

`effective_rank` and `feature_std` are not among them: of a batch of few long recordings they are small by nature.
"""


def signs_of_collapse(log: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """The first sign of collapse of each kind, in words, by the name of the logged value.

    Args:
        log (`Iterable[Mapping[str, float]]`): entries of a training's log, each with its `step`.
    """
    found: dict[str, str] = {}
    for entry in log:
        for name, (bound, meaning) in SIGNS.items():
            if entry.get(name, bound) < bound:
                sign = f"Step {entry['step']}: {name} is {entry[name]:.3g}, below {bound:g}: {meaning}"
                found.setdefault(name, sign)
    return found


class CollapseWatch(TrainerCallback):
    """Warns once of each sign of collapse, from the first log on; ends the training at bounds that the user set.

    Args:
        bounds (`Mapping[str, float]`): by the name of a logged value, the lowest that it may have.
        from_step (`int`): optimiser steps before which no bound holds, since many objectives start near collapse.

    Raises:
        InputError: when a value is below its bound, or is never logged. Checkpoints that were written stay.
    """

    def __init__(self, bounds: Mapping[str, float], from_step: int) -> None:
        self.bounds, self.from_step = bounds, from_step
        self.warned: set[str] = set()

    def on_log(  # noqa: D102 - the trainer's event
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if "loss" not in logs:  # of an evaluation, or the summary at the end
            return
        for name in self.bounds:
            if name not in logs:
                raise unknown_name("logged value (training.stop_below)", name, logs)
        for name, sign in signs_of_collapse([{"step": state.global_step, **logs}]).items():
            if name not in self.warned:
                self.warned.add(name)
                logger.warning(
                    "%s. A lower learning rate is the usual cure; training.stop_below ends a run that does not "
                    "recover.",
                    sign,
                )
        for name, bound in self.bounds.items():
            if state.global_step >= self.from_step and not logs[name] >= bound:  # NaN is below every bound
                raise InputError(
                    f"The representation has collapsed: at step {state.global_step} {name} is {logs[name]:.3g}, below "
                    f"{bound:g} (training.stop_below); lower training.learning_rate, or start from an earlier "
                    f"checkpoint in {args.output_dir}."
                )

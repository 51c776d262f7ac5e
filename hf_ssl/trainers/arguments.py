"""The `training` section of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_ssl.errors import InputError, unknown_name

SCHEDULES = ("cosine", "linear", "tri_stage", "constant")
OPTIMIZERS = ("adamw", "lars", "sgd")

REPLACED = {
    "lr_scheduler_type": "training.schedule",
    "lr_scheduler_kwargs": "training.schedule and what belongs to it",
    "train_sampling_strategy": "training.max_batch_length, which makes batches of items of like length",
}
"""Settings of `TrainingArguments` in whose place others stand here."""


@dataclass
class ReproducibleTrainingArguments(TrainingArguments):
    """What pretraining and fine-tuning add to `transformers.TrainingArguments`, and defaults that suit both.

    Args:
        schedule (`str`): of the learning rate after a linear warm-up over `warmup_steps` (below 1: a share of the
            training): `"cosine"` or `"linear"` to zero, `"tri_stage"` (hold, then exponential decay; wav2vec 2.0) or
            `"constant"`.
        hold_share (`float`): tri-stage: share of the training for which the peak is held.
        final_learning_rate_scale (`float`): tri-stage: the last learning rate over the peak.
        max_batch_length (`float`, *optional*): sum of lengths that a batch may hold on each device (seconds of speech,
            tokens of text), instead of `per_device_train_batch_size` items.
    """

    schedule: str = "linear"
    hold_share: float = 0.4
    final_learning_rate_scale: float = 0.05
    max_batch_length: float | None = None

    # A collator that makes views, masks or labels needs the raw columns, which the model's `forward` does not name.
    remove_unused_columns: bool = False
    logging_steps: float = 10
    # A NaN in the loss must be seen, not replaced by the running mean; leaving the filter out also saves a
    # synchronisation a step.
    logging_nan_inf_filter: bool = False
    save_total_limit: int | None = 2
    # Layers that are dropped at random have no gradient in some steps; transformers' own default would not look for
    # them together with gradient checkpointing.
    ddp_find_unused_parameters: bool | None = True

    replaced: ClassVar[Mapping[str, str]] = REPLACED

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule (training.schedule)", self.schedule, SCHEDULES)
        if self.dataloader_persistent_workers:
            raise InputError(
                "training.dataloader_persistent_workers=true makes a resumed run differ from an uninterrupted one; "
                "leave it out."
            )
        check_numbers(self)
        if not 0 <= self.hold_share <= 1:
            raise InputError(f"training.hold_share is {self.hold_share}; give a share of the training in [0, 1].")
        if self.final_learning_rate_scale <= 0:
            raise InputError(
                f"training.final_learning_rate_scale is {self.final_learning_rate_scale}; the decay is exponential, "
                "so give a number above 0."
            )
        for name, instead in self.replaced.items():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(f"training.{name} has no effect here; use {instead}.")
        super().__post_init__()


@dataclass
class SSLTrainingArguments(ReproducibleTrainingArguments):
    """The `training` section of a pretraining run.

    Args:
        optimizer (`str`): `"adamw"`, `"lars"` (SimCLR's, for large batches) or `"sgd"`.
        momentum (`float`): of LARS and SGD.
        trust_coefficient (`float`): of LARS.
        stop_below (`dict[str, float]`, *optional*): by the name of a logged value, such as `target_std`, the lowest
            that it may have: below it the representation has collapsed, and the run ends; see [`CollapseWatch`].
        stop_after_steps (`int`): optimiser steps before which no bound holds.
    """

    output_dir: str = "runs/pretrained"
    optimizer: str = "adamw"
    schedule: str = "cosine"
    momentum: float = 0.9
    trust_coefficient: float = 1e-3
    stop_below: dict[str, float] | None = None
    stop_after_steps: int = 5000
    warmup_steps: float = 0.05

    replaced: ClassVar[Mapping[str, str]] = {"optim": "training.optimizer", **REPLACED}

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer (training.optimizer)", self.optimizer, OPTIMIZERS)
        super().__post_init__()


LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "seed": 0,
}


def check_numbers(args: TrainingArguments) -> None:
    """Refuse numbers that nothing can be trained with, and trackers that do not exist.

    Raises:
        InputError: for the first of them.
    """
    for name, least in LEAST.items():
        if getattr(args, name) < least:
            raise InputError(f"training.{name} is {getattr(args, name)}; give at least {least}.")
    if args.learning_rate <= 0:
        raise InputError(f"training.learning_rate is {args.learning_rate}; give a number above 0.")
    trackers = [args.report_to] if isinstance(args.report_to, str) else args.report_to
    for tracker in trackers or []:
        if tracker not in ("none", "all", *INTEGRATION_TO_CALLBACK):
            raise unknown_name("tracker (training.report_to)", tracker, INTEGRATION_TO_CALLBACK)

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
            training): `"cosine"` or `"linear"`, `"tri_stage"` (hold, then exponential decay; wav2vec 2.0) or
            `"constant"`.
        hold_share (`float`): tri-stage: share of the training for which the peak is held.
        final_learning_rate_scale (`float`, *optional*): the last learning rate over the peak, in [0, 1]; by default
            .05 for the tri-stage schedule, 0 for the cosine and the linear one.
        max_batch_length (`float`, *optional*): sum of lengths that a batch may hold on each device (seconds of speech,
            tokens of text), instead of `per_device_train_batch_size` items.
    """

    schedule: str = "linear"
    hold_share: float = 0.4
    final_learning_rate_scale: float | None = None
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
        check_final_scale(self.final_learning_rate_scale, self.schedule)
        for name, instead in self.replaced.items():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(f"training.{name} has no effect here; use {instead}.")
        super().__post_init__()


@dataclass
class SSLTrainingArguments(ReproducibleTrainingArguments):
    """The `training` section of a pretraining run.

    Args:
        optimizer (`str`): `"adamw"`, `"lars"` (SimCLR's, for large batches) or `"sgd"`.
        bias_learning_rate (`float`, *optional*): peak of the learning rate of vectors and scalars (biases,
            normalisation); by default `learning_rate`, as for the matrices. Barlow Twins has one.
        final_weight_decay (`float`, *optional*): weight decay at the end of the training, towards which `weight_decay`
            goes with half a cosine (DINO); by default it stays as it is.
        max_parameter_grad_norm (`float`, *optional*): norm to which the gradient of each parameter is clipped by
            itself (DINO), after `max_grad_norm`, which holds for all of them together.
        momentum (`float`): of LARS and SGD.
        trust_coefficient (`float`): of LARS.
        stop_below (`dict[str, float]`, *optional*): by the name of a logged value, such as `target_std`, the lowest
            that it may have: below it the representation has collapsed, and the run ends; see [`CollapseWatch`].
        stop_after_steps (`int`): optimiser steps before which no bound holds.
        cache_chunk_size (`int`, *optional*): images that are encoded at a time, where a loss compares all images of a
            batch: the gradient is that of the whole batch, in the memory of a chunk and for one more pass of the
            encoder; see [`cached_gradients`]. By default all at once.
    """

    output_dir: str = "runs/pretrained"
    optimizer: str = "adamw"
    schedule: str = "cosine"
    bias_learning_rate: float | None = None
    final_weight_decay: float | None = None
    max_parameter_grad_norm: float | None = None
    momentum: float = 0.9
    trust_coefficient: float = 1e-3
    stop_below: dict[str, float] | None = None
    stop_after_steps: int = 5000
    cache_chunk_size: int | None = None
    warmup_steps: float = 0.05

    replaced: ClassVar[Mapping[str, str]] = {"optim": "training.optimizer", **REPLACED}

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer (training.optimizer)", self.optimizer, OPTIMIZERS)
        if self.cache_chunk_size is not None and self.cache_chunk_size < 1:
            raise InputError(f"training.cache_chunk_size is {self.cache_chunk_size}; give at least 1 image.")
        if self.bias_learning_rate is not None and self.bias_learning_rate <= 0:
            raise InputError(
                f"training.bias_learning_rate is {self.bias_learning_rate}; give a number above 0, or leave it out."
            )
        if self.max_parameter_grad_norm is not None and self.max_parameter_grad_norm <= 0:
            raise InputError(
                f"training.max_parameter_grad_norm is {self.max_parameter_grad_norm}; give a number above 0, or leave "
                "it out."
            )
        if self.final_weight_decay is not None and (self.final_weight_decay < 0 or self.weight_decay <= 0):
            raise InputError(
                f"training.weight_decay is {self.weight_decay} and training.final_weight_decay "
                f"{self.final_weight_decay}; the first must be above 0, the second not below."
            )
        super().__post_init__()


def check_final_scale(scale: float | None, schedule: str) -> None:
    """Raise `InputError` for a last learning rate that the schedule cannot come to."""
    if scale is not None and not 0 <= scale <= 1:
        raise InputError(f"training.final_learning_rate_scale is {scale}; give a share of the peak in [0, 1].")
    if scale == 0 and schedule == "tri_stage":
        raise InputError(
            f"training.final_learning_rate_scale is {scale}; the decay is exponential, so give a number above 0."
        )


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

"""The `model` and `training` sections of a fine-tuning run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_ssl.data.spec_augment import SpecAugment
from hf_ssl.errors import InputError, unknown_name
from hf_ssl.trainers.arguments import ReproducibleTrainingArguments
from hf_ssl.trainers.exit_arguments import SCHEMES, ExitArguments
from hf_ssl.trainers.tasks import task_named
from hf_ssl.tuners.adapting import check_tuner_config


@dataclass(kw_only=True)
class FineTuningModelArguments:
    """What is fine-tuned, for which task, and how much of it.

    Args:
        encoder (`str`): folder or Hub name of any transformers encoder, such as `runs/<name>/encoder`.
        task (`str`): one of [`hf_ssl.trainers.tasks.TASKS`].
        tuner (`str`): one of [`hf_ssl.tuners.methods.TUNERS`]. `"none"` trains all weights; `"head"`, `"bitfit"` and
            `"layer_norm"` a few of them; all others put an adapter into the encoder, whose own weights are frozen,
            such as `"lora"` (rank 8, α 16). The head is trained in any case.
        tuner_config (`dict`, *optional*): fields of the tuner's config, as PEFT (or hf_ssl) names them, such as `r`,
            `lora_alpha`, `lora_dropout`, or in `target_modules` the names of the layers to adapt; by default those
            of the encoder's family.
        freeze_feature_encoder (`bool`): keep the convolutions of a waveform encoder as they are, as wav2vec 2.0 does
            (arXiv:2006.11477, section 4.3).
        mask_time_prob (`float`): latent SpecAugment of speech, in training ([`hf_ssl.data.spec_augment`]): share of
            the frames in spans that the encoder's mask embedding replaces, before they overlap; 0 for none. At least
            two spans a recording: shorten them for single words.
        mask_time_length (`int`): frames a span, of 20 ms as a rule.
        mask_channel_prob (`float`): likewise of the channels between CNN and Transformer, which are set to zero.
        mask_channel_length (`int`): channels a span.
        encoder_config (`dict`, *optional*): fields of the encoder's config that are other in fine-tuning, such as
            `layerdrop` and `activation_dropout`.
        drop_path (`float`, *optional*): stochastic depth in training, in [0, 1): the rate at which a row skips a
            branch of a layer; rising linearly with depth, this is the last layer's. Where the encoder's config has a
            `drop_path_rate` it is set to this (by default it is kept; DINOv2 has the same rate in all layers); ViT,
            DeiT, I-JEPA and the like are given it, see [`hf_ssl.modeling.blocks.drop_path`]. Encoders of speech have
            `layerdrop` instead.
        exits (`dict`, *optional*): fields of [`ExitArguments`]: the model then has exits after some of its layers.
    """

    encoder: str
    task: str
    tuner: str = "none"
    tuner_config: dict[str, Any] | None = None
    freeze_feature_encoder: bool = True
    mask_time_prob: float = 0.0
    mask_time_length: int = 10
    mask_channel_prob: float = 0.0
    mask_channel_length: int = 64
    encoder_config: dict[str, Any] | None = None
    drop_path: float | None = None
    exits: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        task_named(self.task)
        if self.exits is not None:
            ExitArguments.of(self.exits)
            if self.tuner == "prompt":
                raise InputError(
                    "A shallow prompt goes with a whole batch, from which no row can leave at an exit; choose "
                    "model.tuner=deep_prompt, or leave model.exits out."
                )
        check_tuner_config(self.tuner, self.tuner_config or {})
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise InputError(f"model.drop_path is {self.drop_path}; give a rate in [0, 1).")
        for name in ("mask_time_prob", "mask_channel_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"model.{name} is {getattr(self, name)}; give a share between 0 and 1.")
        for name in ("mask_time_length", "mask_channel_length"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} is {getattr(self, name)}; give at least 1.")
        if self.spec_augment is not None and task_named(self.task).modality != "speech":
            raise InputError(
                f"model.mask_time_prob and mask_channel_prob are for speech; leave them out for {self.task}."
            )

    @property
    def spec_augment(self) -> SpecAugment | None:
        """The masks of the training, if there are any."""
        if self.mask_time_prob == self.mask_channel_prob == 0:
            return None
        return SpecAugment(
            time_prob=self.mask_time_prob,
            time_length=self.mask_time_length,
            channel_prob=self.mask_channel_prob,
            channel_length=self.mask_channel_length,
        )


@dataclass
class FineTuningArguments(ReproducibleTrainingArguments):
    """The `training` section of a fine-tuning run.

    Args:
        freeze_encoder_steps (`int`): optimiser steps for which only the head learns: no gradient is computed of the
            encoder, adapters and the pooler of a text encoder included (fairseq's `freeze_finetune_updates`).
        layer_decay (`float`): what the learning rate of a layer is multiplied with for each layer above it, in
            (0, 1]; .65 for MAE's ViT-B, 1 for the same rate everywhere. The head has the full rate; see
            [`hf_ssl.trainers.layer_decay`].
        label_smoothing_factor (`float`): ε in [0, 1) of classes: the target is 1 - ε + ε/K for the true one of K and
            ε/K for the others, in training.
        exit_scheme (`str`, *optional*): how the exits of `model.exits` are trained, one of
            [`hf_ssl.trainers.exit_arguments.SCHEMES`]; by default `"joint"`.
        exit_learning_rate (`float`, *optional*): of the second stage of a scheme that has two; by default the first's.
    """

    output_dir: str = "runs/finetuned"
    run_name: str | None = None
    warmup_steps: float = 0.1
    freeze_encoder_steps: int = 0
    layer_decay: float = 1.0
    exit_scheme: str | None = None
    exit_learning_rate: float | None = None
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self) -> None:
        if self.freeze_encoder_steps < 0:
            raise InputError(f"training.freeze_encoder_steps is {self.freeze_encoder_steps}; give at least 0.")
        if self.freeze_encoder_steps and self.ddp_find_unused_parameters is False:
            raise InputError(
                "training.freeze_encoder_steps leaves parameters without gradient, which "
                "training.ddp_find_unused_parameters=false does not allow; leave that out."
            )
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"training.layer_decay is {self.layer_decay}; give a factor in (0, 1], such as 0.65.")
        if not 0 <= self.label_smoothing_factor < 1:
            raise InputError(f"training.label_smoothing_factor is {self.label_smoothing_factor}; give an ε in [0, 1).")
        if self.exit_scheme is not None and self.exit_scheme not in SCHEMES:
            raise unknown_name("scheme (training.exit_scheme)", self.exit_scheme, SCHEMES)
        if self.exit_learning_rate is not None and len(SCHEMES[self.exit_scheme or "joint"]) == 1:
            staged = " or ".join(name for name, stages in SCHEMES.items() if len(stages) > 1)
            raise InputError(
                "training.exit_learning_rate is of a second stage; leave it out, or choose training.exit_scheme="
                f"{staged}."
            )
        if self.run_name is None:
            # Trackers close at the end of the training; under a name, the final scores join the run that was closed.
            self.run_name = Path(self.output_dir).name
        super().__post_init__()

"""The `model` and `training` sections of a fine-tuning run."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.trainers.arguments import check_numbers
from hf_ssl.trainers.tasks import task_named

TUNERS = ("none", "lora")


@dataclass(kw_only=True)
class FineTuningModelArguments:
    """What is fine-tuned, for which task, and how much of it.

    Args:
        encoder (`str`): folder or Hub name of any transformers encoder, such as `runs/<name>/encoder`.
        task (`str`): one of [`hf_ssl.trainers.tasks.TASKS`].
        tuner (`str`): `"none"` trains all weights; `"lora"` low-rank updates of some layers (PEFT's, arXiv:2106.09685)
            and the head, with the encoder's own weights frozen.
        lora_rank (`int`): r, the rank of the updates.
        lora_alpha (`float`): α; updates are scaled by α / r.
        lora_dropout (`float`): of the input of the updates, in [0, 1).
        lora_targets (`list[str]`, *optional*): names of the layers to adapt; by default those that
            [`hf_ssl.tuners.lora_targets`] has for the encoder's family.
        freeze_feature_encoder (`bool`): keep the convolutions of a waveform encoder as they are, as wav2vec 2.0 does
            (arXiv:2006.11477, section 4.3).
        spec_augment (`bool`): mask time and frequency in training as a speech encoder's config says (`mask_time_prob`,
            arXiv:1904.08779). Off by default: two spans of 200 ms at least, as the published configs have it, hide
            most of a spoken word.
    """

    encoder: str
    task: str
    tuner: str = "none"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: list[str] | None = None
    freeze_feature_encoder: bool = True
    spec_augment: bool = False

    def __post_init__(self) -> None:
        task_named(self.task)
        if self.tuner not in TUNERS:
            raise unknown_name("tuner (model.tuner)", self.tuner, TUNERS)
        if self.lora_rank < 1:
            raise InputError(f"model.lora_rank is {self.lora_rank}; the rank of an update is at least 1.")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"model.lora_dropout is {self.lora_dropout}; give a share in [0, 1).")


@dataclass
class FineTuningArguments(TrainingArguments):
    """`transformers.TrainingArguments` with defaults that suit fine-tuning."""

    output_dir: str = "runs/finetuned"
    run_name: str | None = None
    # The collators read columns that a model's `forward` does not name.
    remove_unused_columns: bool = False
    warmup_steps: float = 0.1
    logging_steps: float = 10
    # A NaN in the loss must be seen, not replaced by the running mean.
    logging_nan_inf_filter: bool = False
    save_total_limit: int | None = 2
    # Layers that an encoder drops at random have no gradient in some steps; transformers' own default would not look
    # for them together with gradient checkpointing.
    ddp_find_unused_parameters: bool | None = True
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.run_name is None:
            # Trackers close at the end of the training; under a name, the final scores join the run that was closed.
            self.run_name = Path(self.output_dir).name
        super().__post_init__()

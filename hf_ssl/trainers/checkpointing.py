"""Checkpoints that are either whole or not there, whenever the process is killed."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import transformers.trainer as trainer_module
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from hf_ssl.errors import InputError

logger = logging.getLogger(__name__)

STAGING = ".staging"
"""Folder in the output folder where a checkpoint is written before it gets its name."""

NOT_OF_THE_MODEL = {"architectures", "dtype", "transformers_version", "_name_or_path", "use_cache", "teacher"}
"""Keys of a saved config that say nothing of the model (a teacher's address: its fingerprint does)."""


class AtomicCheckpointTrainer(Trainer):
    """A `Trainer` whose `checkpoint-N` folders appear by one rename, complete.

    The stock trainer writes straight into `checkpoint-N`; killed in the middle, it leaves a folder that
    `resume_from_checkpoint=True` picks and fails on. Here each checkpoint is staged and renamed, and older ones are
    removed only after that.
    """

    _staging = False

    def __init__(self, *, args: TrainingArguments, **kwargs: Any) -> None:
        if args.n_gpu > 1:
            # The stock trainer would run copies of the model in threads and average losses that are sums.
            logger.warning(
                "Of %d GPUs this process uses the first; `python -m torch.distributed.run --nproc_per_node %d -m "
                "hf_ssl.cli.main ...` uses all.",
                args.n_gpu,
                args.n_gpu,
            )
            args._n_gpu = 1
        super().__init__(args=args, **kwargs)
        if self.args.gradient_checkpointing and not self._can_recompute():
            raise InputError(
                f"A {type(self.model).__name__} on this encoder cannot recompute its activations; leave "
                "training.gradient_checkpointing out."
            )

    def _can_recompute(self) -> bool:
        return getattr(self.model, "supports_gradient_checkpointing", True)

    def _get_output_dir(self, trial: Any) -> str:
        output_dir = super()._get_output_dir(trial)
        return os.path.join(output_dir, STAGING) if self._staging else output_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        root = Path(super()._get_output_dir(trial))
        staging, name = root / STAGING, f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(
                f"The checkpoint of step {self.state.global_step} could not be written to {root} ({error}); the last "
                f"complete one is {get_last_checkpoint(root)}. Free some space and start the same command again with "
                "--resume."
            ) from error
        finally:
            self._staging, self.args.save_total_limit = False, limit
        self.accelerator.wait_for_everyone()
        self._name_best_checkpoint(root, staging / name)
        if self.args.should_save:
            _publish(staging / name, root / name)
            trainer_module.rotate_checkpoints(
                output_dir=str(root),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _run_epoch(self, **kwargs: Any) -> None:
        """A run that is resumed from its very last step is done; the stock trainer would take one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.model if model is None else model
        if isinstance(target, PreTrainedModel) and not self.is_fsdp_enabled:
            load_weights(target, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if isinstance(self.model, PreTrainedModel) and not self.is_fsdp_enabled:
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _name_best_checkpoint(self, root: Path, staged: Path) -> None:
        """The stock trainer looks for the best checkpoint beside the one it writes, which is the staging folder
        here.
        """
        best = self.state.best_global_step
        if not best:
            return
        folder = root / f"checkpoint-{best}"
        if folder.exists() or folder.name == staged.name:
            self.state.best_model_checkpoint = str(folder)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))


def load_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Give a model all the weights of a checkpoint.

    Of some families (ViT, DeiT, DINOv2, ...) transformers 5 saves the weights under the names of version 4, and the
    stock trainer takes back only those whose names it knows: the others would silently stay as they were initialised.
    """
    saved = type(model).from_pretrained(folder, config=model.config, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())


def _publish(staged: Path, final: Path) -> None:
    """Give a staged folder its final name, durably."""
    if final.exists():  # the same step saved again: the old one goes only when the new one can take its name at once
        os.replace(final, staged.parent / "replaced")
    os.replace(staged, final)
    folder = os.open(final.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    shutil.rmtree(staged.parent, ignore_errors=True)


def checkpoint_to_resume(output: Path, resume: bool) -> str | None:
    """The checkpoint to resume from; a folder with checkpoints that is not to be resumed is not written over."""
    last = get_last_checkpoint(output) if output.is_dir() else None
    if last and not resume:
        raise InputError(
            f"{output} already holds checkpoints up to {Path(last).name}; add --resume to continue that run, or "
            "choose another training.output_dir."
        )
    return last


def is_finished(output: Path, checkpoint: str, args: TrainingArguments) -> bool:
    """Whether a run has done all its steps and has left behind what it leaves at its end."""
    if not (output / "README.md").is_file():  # the card, written last of all
        return False
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    longer = args.max_steps > state.max_steps if args.max_steps > 0 else args.num_train_epochs > state.num_train_epochs
    return state.global_step >= state.max_steps and not longer


def check_same_model(checkpoint: str, config: PreTrainedConfig) -> None:
    """Refuse to resume with another model than the checkpoint's.

    Raises:
        InputError: for another objective, or the first setting that differs.
    """
    saved = json.loads(Path(checkpoint, "config.json").read_text(encoding="utf-8"))
    if saved["model_type"] == config.model_type:
        saved = as_plain(type(config).from_pretrained(checkpoint))
    differing = first_difference(saved, as_plain(config))
    if differing is not None:
        key, before, now = differing
        raise InputError(
            f"{checkpoint} is of a run with {key} {before!r}, this one has {now!r}; choose another "
            "training.output_dir, or the same model."
        )


def as_plain(config: PreTrainedConfig) -> dict[str, Any]:
    """All of a config as JSON has it."""
    return json.loads(config.to_json_string(use_diff=False))


def first_difference(saved: dict[str, Any], current: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first setting of two configs that differs, with its values; the kind of model before all else."""
    for key in sorted({*saved, *current} - NOT_OF_THE_MODEL, key=lambda key: (key != "model_type", key)):
        before, now = saved.get(key), current.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            inner = first_difference(before, now, f"{prefix}{key}.")
            if inner is not None:
                return inner
        elif before != now:
            return f"{prefix}{key}", before, now
    return None

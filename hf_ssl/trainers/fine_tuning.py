"""Fine-tuning an encoder for a task."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed
from transformers.utils import ModelOutput

from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.labelled import reads_padding
from hf_ssl.data.prepared import Batch
from hf_ssl.errors import writing
from hf_ssl.hub.environment import save_environment
from hf_ssl.modeling.blocks.frames import IGNORED, num_frames
from hf_ssl.trainers.checkpointing import AtomicCheckpointTrainer, checkpoint_to_resume
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments, FineTuningModelArguments
from hf_ssl.trainers.recording import save_run_file
from hf_ssl.trainers.scoring import make_scorer
from hf_ssl.trainers.task_data import TaskData, prepare_task
from hf_ssl.trainers.task_model import AdaptedModel, make_task_model, trainable_share
from hf_ssl.trainers.tasks import Task, task_named

logger = logging.getLogger(__name__)

MERGED = "merged"
"""Folder in the output folder for the model whose adapter is merged into its weights."""


class FineTuningTrainer(AtomicCheckpointTrainer):
    """Trains a model with labels and scores it.

    What it adds to `transformers.Trainer`: the gradient of an optimiser step does not depend on how its batch was cut
    into micro-batches or ranks; checkpoints are atomic; predictions are classes, without those of padding. Encoders of
    speech that take no mask (with group norm: wav2vec2-base, hubert-base) read the zeros that pad a batch: for them
    the first holds for recordings of one length only, and they are evaluated one recording at a time.

    Args:
        model (`PreTrainedModel` or [`AdaptedModel`]): with the task's head.
        args ([`FineTuningArguments`]): the `training` section.
        task (`str`): its name.
        data ([`TaskData`]): the splits and their batches.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: PreTrainedModel | AdaptedModel, args: FineTuningArguments, task: str, data: TaskData
    ) -> None:
        if reads_padding(data.processor):
            args.per_device_eval_batch_size = 1
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.splits["train"],
            eval_dataset=data.splits.get("validation"),
            data_collator=data.collator,
            processing_class=data.processor,
            compute_metrics=make_scorer(task_named(task), data.processor),
        )
        self.is_ctc = task == "ctc"
        # Only for a model that is said to take it does the trainer count the labels of an optimiser step.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The share of this micro-batch in the mean over the labels of the optimiser step.

        A label is a class or, for CTC, a character: its loss is the sum over recordings divided by their characters.
        """
        count = (inputs["labels"] != IGNORED).sum()
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        total = loss if self.is_ctc else loss * count
        if num_items_in_batch is None:
            loss = total / count
        else:
            # The count is over all ranks, while their gradients are averaged.
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss, the most probable class of each item, word or frame, and the true ones."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only:
            return loss, None, None
        predictions = (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
        if self.is_ctc and "attention_mask" in inputs:
            lengths = [num_frames(self.model.config, int(row.sum())) for row in inputs["attention_mask"]]
            frames = torch.arange(predictions.shape[1], device=predictions.device)
            padding = frames >= torch.tensor(lengths, device=predictions.device)[:, None]
            predictions = predictions.masked_fill(padding, IGNORED)
        return loss, predictions, labels


@dataclass
class FineTuningRun:
    """A fine-tuning run file, read: its sections."""

    model: FineTuningModelArguments
    data: DataArguments
    training: FineTuningArguments


@dataclass
class FineTuned:
    """What a fine-tuning run leaves.

    Args:
        folder (`Path`): model or adapter, head, label map and processor; [`load_finetuned`] restores them.
        merged (`Path`, *optional*): the adapter merged into a plain transformers model.
        num_trained (`int`): parameters that were trained.
        num_parameters (`int`): parameters in all.
        metrics (`dict[str, dict[str, float]]`): by split, `"validation"` and `"test"` as far as the data has them.
    """

    folder: Path
    merged: Path | None
    num_trained: int
    num_parameters: int
    metrics: dict[str, dict[str, float]]


def fine_tune(run: FineTuningRun, *, command: str, resume: bool = False, merge: bool = False) -> FineTuned:
    """Fine-tune an encoder, score it on validation and test, and save it.

    Args:
        run ([`FineTuningRun`]): what to do.
        command (`str`): the command line, for the card.
        resume (`bool`): continue from the last checkpoint in the output folder.
        merge (`bool`): also save the adapter merged into the model, which then loads where peft is not installed.

    Returns:
        [`FineTuned`].

    Raises:
        InputError: for data, names or values that cannot be used.
    """
    training, output = run.training, Path(run.training.output_dir)
    checkpoint = checkpoint_to_resume(output, resume)
    with training.main_process_first(desc="data"):
        data = prepare_task(run.model, run.data)
    set_seed(training.seed)
    model = make_task_model(run.model, data.config_updates)
    num_trained, num_parameters = trainable_share(model)
    logger.info("%s of %s parameters are trained.", f"{num_trained:,}", f"{num_parameters:,}")
    trainer = FineTuningTrainer(model, training, run.model.task, data)
    trainer.train(resume_from_checkpoint=checkpoint)
    result = FineTuned(output, None, num_trained, num_parameters, _evaluate(trainer, data, task_named(run.model.task)))
    if trainer.is_world_process_zero():
        with writing(output):
            _save(result, run, model, data, merge)
            save_environment(output, command)
    trainer.accelerator.wait_for_everyone()
    return result


def _evaluate(trainer: FineTuningTrainer, data: TaskData, task: Task) -> dict[str, dict[str, float]]:
    """The loss and the task's metrics on validation and test."""
    metrics, kept = {}, ("loss", *task.metrics)
    # The prefixes under which trackers have a curve of the validation and one of the test
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split in data.splits:
            values = trainer.evaluate(data.splits[split], metric_key_prefix=prefix)
            metrics[split] = {name: values[f"{prefix}_{name}"] for name in kept}
    return metrics


def _save(
    result: FineTuned, run: FineTuningRun, model: PreTrainedModel | AdaptedModel, data: TaskData, merge: bool
) -> None:
    """Write what a finished run leaves behind."""
    model.save_pretrained(result.folder)
    data.processor.save_pretrained(result.folder)
    save_run_file(result.folder, run)
    facts = {
        "task": run.model.task,
        "encoder": run.model.encoder,
        "tuner": run.model.tuner,
        "num_trained_parameters": result.num_trained,
        "num_parameters": result.num_parameters,
        **result.metrics,
    }
    (result.folder / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if merge:
        result.merged = result.folder / MERGED
        model.merge_and_unload().save_pretrained(result.merged)
        data.processor.save_pretrained(result.merged)

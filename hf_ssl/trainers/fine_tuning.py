"""Fine-tuning an encoder for a task."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, set_seed

from hf_ssl.data.arguments import DataArguments, ImageDataArguments
from hf_ssl.data.labelled_images import is_mixed
from hf_ssl.errors import InputError, writing
from hf_ssl.hub.environment import save_environment
from hf_ssl.trainers.checkpointing import checkpoint_to_resume
from hf_ssl.trainers.exit_training import ExitTrainer, train_exits
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments, FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.recording import save_run_file
from hf_ssl.trainers.task_data import TaskData, prepare_task
from hf_ssl.trainers.task_model import AdaptedModel, make_task_model, trainable_share
from hf_ssl.tuners.methods import tuner_named
from hf_ssl.tuners.prefix import drop_reparametrisation

logger = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]

MERGED = "merged"
"""Folder in the output folder for the model whose adapter is merged into its weights."""


@dataclass
class FineTuningRun:
    """A fine-tuning run file, read: its sections."""

    model: FineTuningModelArguments
    data: DataArguments
    training: FineTuningArguments

    def __post_init__(self) -> None:
        if self.training.exit_scheme is not None and self.model.exits is None:
            raise InputError(
                f"training.exit_scheme={self.training.exit_scheme} trains exits; say after which layers they stand, "
                "e.g. model.exits.layers=all."
            )
        self._check_targets()

    def _check_targets(self) -> None:
        """Mixed and smoothed targets go into a cross entropy that takes the place of the model's own loss."""
        settings = {"training.label_smoothing_factor": self.training.label_smoothing_factor > 0}
        if isinstance(self.data, ImageDataArguments):
            settings["data.mixup and data.cutmix"] = is_mixed(self.data)
        for name in (name for name, is_used in settings.items() if is_used):
            for what, has_own_loss in (
                ("exits", self.model.exits is not None),
                ("CTC", self.model.task == "ctc"),
                ("AdaLoRA", self.model.tuner == "adalora"),
            ):
                if has_own_loss:
                    raise InputError(f"{what} has a loss of its own, into which {name} cannot go; leave it out.")


@dataclass
class FineTuned:
    """What a fine-tuning run leaves.

    Args:
        folder (`Path`): model or adapter, head, label map and processor; [`load_finetuned`] restores them.
        merged (`Path`, *optional*): the adapter merged into a plain transformers model.
        num_trained (`int`): parameters that were trained.
        num_parameters (`int`): parameters in all.
        metrics (`dict[str, dict[str, float]]`): by split, `"validation"` and `"test"` as far as the data has them.
        exits (`dict[str, dict[str, dict[str, float]]]`): by split and layer, of a model with exits.
        num_train_items (`int`): items with labels that it learned from.
    """

    folder: Path
    merged: Path | None
    num_trained: int
    num_parameters: int
    metrics: Scores
    exits: dict[str, Scores]
    num_train_items: int

    @property
    def size_on_disk(self) -> int:
        """Bytes of the weights in the folder: of the adapter with its head, or of the whole model."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))


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
        InputError: for data, names or values that cannot be used, or an adapter that shall be merged and cannot.
    """
    if merge:
        check_mergeable(run.model.tuner)
    training, output = run.training, Path(run.training.output_dir)
    checkpoint = checkpoint_to_resume(output, resume)
    with training.main_process_first(desc="data"):
        data = prepare_task(run.model, run.data)
    set_seed(training.seed)
    model = make_task_model(run.model, data.config_updates)
    num_trained, num_parameters = trainable_share(model)
    logger.info("%s of %s parameters are trained.", f"{num_trained:,}", f"{num_parameters:,}")
    if run.model.exits is None:
        trainer = FineTuningTrainer(model, training, run.model.task, data)
        trainer.train(resume_from_checkpoint=checkpoint)
    else:
        trainer = train_exits(model, training, run.model.task, data, resume)
    num_items = len(data.splits["train"])
    result = FineTuned(output, None, num_trained, num_parameters, *_evaluate(trainer, data), num_items)
    if trainer.is_world_process_zero():
        with writing(output):
            _save(result, run, model, data, merge)
            save_environment(output, command)
    trainer.accelerator.wait_for_everyone()
    return result


def check_mergeable(name: str) -> None:
    """Refuses to merge what a tuner trains into the weights, where there is nothing to merge or it cannot be.

    Args:
        name (`str`): of the tuner.

    Raises:
        InputError: saying why.
    """
    tuner = tuner_named(name)
    if tuner.config_class is None:
        raise InputError(
            f"--merge needs an adapter to merge, and the tuner {name} saves the whole model; leave it out, or choose "
            "another tuner, such as model.tuner=lora."
        )
    if tuner.why_unmergeable is not None:
        raise InputError(
            f"An adapter of the tuner {name} cannot be merged: {tuner.why_unmergeable}; leave --merge out."
        )


def _evaluate(trainer: FineTuningTrainer, data: TaskData) -> tuple[Scores, dict[str, Scores]]:
    """The loss and the task's metrics on validation and test, and there the metrics of each exit if there are any."""
    metrics, exits = {}, {}
    # The prefixes under which trackers have a curve of the validation and one of the test
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split in data.splits:
            values = trainer.evaluate(data.splits[split], metric_key_prefix=prefix)
            metrics[split] = {name: values[f"{prefix}_{name}"] for name in (*data.metrics, "loss")}
            if isinstance(trainer, ExitTrainer):
                exits[split] = trainer.scores_by_layer(values, prefix)
    return metrics, exits


def _save(
    result: FineTuned, run: FineTuningRun, model: PreTrainedModel | AdaptedModel, data: TaskData, merge: bool
) -> None:
    """Write what a finished run leaves behind."""
    if run.model.tuner == "prefix":
        drop_reparametrisation(model)
    model.save_pretrained(result.folder)
    data.processor.save_pretrained(result.folder)
    save_run_file(result.folder, run)
    facts = {
        "task": run.model.task,
        "encoder": run.model.encoder,
        "tuner": run.model.tuner,
        **data.facts,
        "num_trained_parameters": result.num_trained,
        "num_parameters": result.num_parameters,
        "size_on_disk": result.size_on_disk,
        **result.metrics,
        **({"exits": result.exits} if result.exits else {}),
    }
    (result.folder / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if merge:
        result.merged = result.folder / MERGED
        model.merge_and_unload().save_pretrained(result.merged)
        data.processor.save_pretrained(result.merged)

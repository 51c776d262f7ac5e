"""One pretraining run, from its run file to the folder it leaves behind."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import IntervalStrategy

from hf_ssl.data.arguments import DataArguments, ImageDataArguments, SpeechDataArguments
from hf_ssl.data.augmentation import augmentation
from hf_ssl.data.colours import prepare_colours
from hf_ssl.data.images import normalisation, prepare_images
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.prepared import PreparedData
from hf_ssl.data.speech import prepare_speech
from hf_ssl.data.text import prepare_text
from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.encoders import load_encoder_config
from hf_ssl.hub.card import write_card
from hf_ssl.hub.loading import loading_lines
from hf_ssl.modeling import Objective, objective
from hf_ssl.modeling.blocks.patch_masking import patch_sides
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.build import FROM_PRETRAINING, fresh_encoder_config, make_model, own_fields, start_of
from hf_ssl.trainers.checkpointing import check_same_model, checkpoint_to_resume, is_finished
from hf_ssl.trainers.clustering import ClusteringArguments, cluster
from hf_ssl.trainers.online_evaluation import online_probe, set_apart
from hf_ssl.trainers.palette import find_palette
from hf_ssl.trainers.patch_codebook import find_patch_codebook
from hf_ssl.trainers.pretraining import SSLTrainer
from hf_ssl.trainers.recording import save_run_file

logger = logging.getLogger(__name__)

PREPARE: dict[str, Callable[..., PreparedData]] = {
    "vision": prepare_images,
    "speech": prepare_speech,
    "text": prepare_text,
}


@dataclass
class PreTrainingRun:
    """A run file, read.

    Args:
        objective (`str`): its name in the table of objectives.
        model (`dict[str, Any]`): fields of the objective's config, and `from_encoder`, the encoder to start from, or
            `from_pretraining`, the checkpoint of the whole objective to continue.
        data ([`DataArguments`]): what it is fed.
        training ([`SSLTrainingArguments`]): how it is trained.
        clustering ([`ClusteringArguments`], *optional*): makes the units of `data.units`, where that is not given.
    """

    objective: str
    model: dict[str, Any]
    data: DataArguments
    training: SSLTrainingArguments
    clustering: ClusteringArguments | None = None


def pretrain(
    run: PreTrainingRun, *, command: str, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Run one pretraining.

    Leaves in `run.training.output_dir`: `encoder/` (a plain transformers checkpoint with its preprocessor),
    `pretraining/` (the whole objective, to continue from), `checkpoint-N/` (to resume from), `run.yaml`,
    `metrics.json` and `README.md` (the card).

    Args:
        run ([`PreTrainingRun`]): what to do.
        command (`str`): the command line, for the card.
        resume (`bool`): continue from the last checkpoint in the output folder.
        callbacks (`Sequence[TrainerCallback]`): of the trainer, after all others.

    Returns:
        `Path`: the output folder.

    Raises:
        InputError: for data, names or values that cannot be used.
    """
    training, row = run.training, objective(run.objective)
    check_predicts_units(run)
    check_takes_local_views(run)
    output = Path(training.output_dir)
    checkpoint = checkpoint_to_resume(output, resume)
    if checkpoint is not None and is_finished(output, checkpoint, training):
        logger.info("The run in %s is finished; for another one, choose another training.output_dir.", output)
        return output
    if run.model.get("from_encoder"):
        load_encoder_config(run.model["from_encoder"])  # whether it is one, before anything is said of its parts
    with training.main_process_first(local=False, desc="units"):  # one folder for all machines
        run = _with_tokenizer(_with_palette(_with_units(run, output), row, output), row, output)
    with training.main_process_first(desc="data"):
        data = _prepare_data(run, row)
    set_seed(training.seed)
    model = make_model(row, run.model, data.config_updates)
    if not run.model.get(FROM_PRETRAINING):
        model.load_given_parts()
    train_and_save(run, model, data, row.modality, checkpoint=checkpoint, command=command, callbacks=callbacks)
    return output


def train_and_save(
    run: PreTrainingRun,
    model: SSLPreTrainedModel,
    data: PreparedData,
    modality: str,
    *,
    checkpoint: str | None,
    command: str,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train a model on data and leave behind what [`pretrain`] says.

    Args:
        run ([`PreTrainingRun`]): what was asked for.
        model ([`SSLPreTrainedModel`]): made of it.
        data ([`PreparedData`]): prepared for it.
        modality (`str`): of the data.
        checkpoint (`str`, *optional*): to resume from.
        command (`str`): the command line, for the card.
        callbacks (`Sequence[TrainerCallback]`): of the trainer, after all others.

    Raises:
        InputError: for a checkpoint of another model, or a validation loss without validation data.
    """
    output = Path(run.training.output_dir)
    if checkpoint is not None:
        check_same_model(checkpoint, model.config)
    trainer = _make_trainer(run, modality, model, data)
    for callback in callbacks:
        trainer.add_callback(callback)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    if trainer.is_world_process_zero():
        metrics = {"num_skipped": data.num_skipped, **_last_logs(trainer)}
        if checkpoint is None:  # of a resumed run, they are of its last part only
            metrics |= result.metrics
        with writing(output):
            save_run(output, run, model, data, set_apart(metrics, trainer))
            write_card(output, command=command)
        encoder = output / "encoder"
        logger.info("The encoder is in %s. To load it:\n\n%s\n", encoder, loading_lines(encoder, str(encoder)))
    trainer.accelerator.wait_for_everyone()


def _prepare_data(run: PreTrainingRun, row: Objective) -> PreparedData:
    """The data as the encoder reads them: of speech, that may be waveforms or log-mel frames."""
    encoder = start_of(run.model)
    options: dict[str, Any] = {"seed": run.training.seed, "encoder": encoder}
    if row.modality == "speech" and encoder is None:
        options["architecture"] = fresh_encoder_config(row, run.model, {})
    if row.model_class.needs_item_indices:
        options["with_indices"] = True
    prepare: Callable[..., PreparedData] = prepare_colours if _reads_colours(row) else PREPARE[row.modality]
    data = prepare(run.data, **options)
    if row.model_class.needs_pixel_scale:
        mean, scale = normalisation(data.processor)
        data = replace(data, config_updates={**data.config_updates, "pixel_mean": mean, "pixel_scale": scale})
    return data


def _make_trainer(run: PreTrainingRun, modality: str, model: SSLPreTrainedModel, data: PreparedData) -> SSLTrainer:
    """The trainer with the objective's draw in its collator and, where the data have a label, the online probe."""
    evaluates = run.training.eval_strategy != IntervalStrategy.NO
    if evaluates and data.validation is None:
        raise InputError(
            f"training.eval_strategy is {run.training.eval_strategy.value}, but {run.data.path} has no validation "
            "items; set training.eval_strategy=no, or name data.validation_split."
        )
    data.collator.draw = partial(model.draw_inputs, model.config)
    trainer = SSLTrainer(
        model=model,
        args=run.training,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=data.collator,
        processing_class=data.processor,
        lengths=data.lengths,
        repeats=data.repeats,
        batch_transform=data.batch_transform,
        plain_collator=LabelledCollator(modality=modality, processor=data.processor),
    )
    if evaluates and run.data.label_column is not None:
        trainer.add_callback(online_probe(trainer, run.data, modality, data.processor))
    return trainer


def check_predicts_units(run: PreTrainingRun) -> None:
    """Units are for objectives that predict them, whose configs have `num_clusters`.

    Raises:
        InputError: for a run of another one with units or a `clustering` section.
    """
    has_units = isinstance(run.data, SpeechDataArguments) and run.data.units is not None
    predicts_units = "num_clusters" in own_fields(objective(run.objective).config_class)
    if (has_units or run.clustering is not None) and not predicts_units:
        raise InputError(f"{run.objective} predicts no units; leave data.units and the section clustering out.")


def check_takes_local_views(run: PreTrainingRun) -> None:
    """Local views are for objectives whose `forward` has `local_pixel_values`.

    Raises:
        InputError: for a preset that has some and an objective that has no use for them.
    """
    if not isinstance(run.data, ImageDataArguments):
        return
    row = objective(run.objective)
    makes_some = any(view.is_local for view in augmentation(run.data.augmentation))
    if makes_some and "local_pixel_values" not in signature(row.model_class.forward).parameters:
        raise InputError(
            f"data.augmentation={run.data.augmentation} makes local views, of which {row.title} has no use; choose a "
            "preset without them."
        )


def _with_units(run: PreTrainingRun, output: Path) -> PreTrainingRun:
    """The run with the units that its `clustering` section makes; those that are complete are kept."""
    if run.clustering is None:
        return run
    assert isinstance(run.data, SpeechDataArguments)
    if run.data.units is not None:
        return run
    units = cluster(run.data, run.clustering, output / "units", seed=run.training.seed)
    return replace(run, data=replace(run.data, units=str(units)))


def _reads_colours(row: Objective) -> bool:
    """Whether an objective reads images as tokens, each of which is a colour of a palette."""
    return row.modality == "vision" and row.model_class.main_input_name == "input_ids"


def _with_palette(run: PreTrainingRun, row: Objective, output: Path) -> PreTrainingRun:
    """The run with the palette that it finds, where it needs one and is given none; one that is complete is kept."""
    if not isinstance(run.data, ImageDataArguments):
        return run
    if not _reads_colours(row):
        if run.data.palette is not None:
            raise InputError(f"{run.objective} reads pixels and no colours; leave data.palette out.")
        return run
    if run.data.palette is not None or start_of(run.model) is not None:
        return run
    palette = find_palette(run.data, output / "palette", seed=run.training.seed)
    return replace(run, data=replace(run.data, palette=str(palette)))


def _with_tokenizer(run: PreTrainingRun, row: Objective, output: Path) -> PreTrainingRun:
    """The run with the image tokenizer that it makes, where it needs one and is given none; a complete one is kept."""
    if "tokenizer" not in own_fields(row.config_class):
        return run
    if run.model.get("tokenizer") is not None or run.model.get(FROM_PRETRAINING):
        return run
    assert isinstance(run.data, ImageDataArguments)
    start = start_of(run.model)
    encoder = load_encoder_config(start) if start else fresh_encoder_config(row, run.model, {})
    values = run.model.get("tokenizer_config") or {}
    patch_size = patch_sides(encoder)[0]
    folder = find_patch_codebook(run.data, values, patch_size, output / "tokenizer", seed=run.training.seed)
    model = {name: value for name, value in run.model.items() if name != "tokenizer_config"}
    return replace(run, model={**model, "tokenizer": str(folder)})


def save_run(
    output: Path, run: PreTrainingRun, model: SSLPreTrainedModel, data: PreparedData, metrics: dict[str, Any]
) -> None:
    """Write what a finished run leaves behind, except its card."""
    model.save_pretrained(output / "pretraining")
    data.processor.save_pretrained(output / "pretraining")
    model.export_encoder(output / "encoder", data.processor)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    save_run_file(output, run)


def _last_logs(trainer: SSLTrainer) -> dict[str, float]:
    """The last value of everything that was logged, except what is of this process alone."""
    last: dict[str, float] = {}
    for entry in trainer.state.log_history:
        last |= entry
    return {name: value for name, value in last.items() if name != "total_flos" and not name.startswith("train_")}

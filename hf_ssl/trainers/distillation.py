"""One distillation run: a smaller encoder learns from a larger one on unlabelled data."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, set_seed

from hf_ssl.data.arguments import DATA_ARGUMENTS, SpeechDataArguments, TextDataArguments
from hf_ssl.data.prepared import PreparedData
from hf_ssl.errors import InputError, unknown_name
from hf_ssl.evaluation.encoders import MODALITIES, load_encoder_config
from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.modeling.blocks.pretrained import SSLConfig, load_published
from hf_ssl.modeling.distillation.config import DistillationConfig
from hf_ssl.modeling.distillation.losses import LOSSES
from hf_ssl.modeling.distillation.student import DistillationModel
from hf_ssl.modeling.text.bert import num_positions
from hf_ssl.trainers.build import own_fields
from hf_ssl.trainers.checkpointing import checkpoint_to_resume, is_finished
from hf_ssl.trainers.run import PREPARE, PreTrainingRun, train_and_save

logger = logging.getLogger(__name__)

DERIVED = ("encoder_config", "teacher_config", "teacher_fingerprint", "mask_token_id", "tie_word_embeddings")
"""Fields of the config that teacher, student and data decide."""


def distill(run: PreTrainingRun, *, command: str, resume: bool = False) -> Path:
    """Run one distillation.

    Leaves in `run.training.output_dir` what a pretraining leaves ([`pretrain`]): `encoder/`, the student as a plain
    transformers checkpoint, `pretraining/`, the student with what the losses learned besides, `checkpoint-N/`,
    `run.yaml`, `metrics.json` and the card. The teacher is in none of them.

    Args:
        run ([`PreTrainingRun`]): what to do. Its `model` section holds `teacher`, `student` (the fields in which its
            config differs from the teacher's) and fields of [`DistillationConfig`].
        command (`str`): the command line, for the card.
        resume (`bool`): continue from the last checkpoint in the output folder.

    Returns:
        `Path`: the output folder.

    Raises:
        InputError: for a teacher, data, names or values that cannot be used.
    """
    training, output = run.training, Path(run.training.output_dir)
    checkpoint = checkpoint_to_resume(output, resume)
    if checkpoint is not None and is_finished(output, checkpoint, training):
        logger.info("The run in %s is finished; for another one, choose another training.output_dir.", output)
        return output
    check_model_section(run.model)
    if isinstance(run.data, SpeechDataArguments) and run.data.units is not None:
        raise InputError("A distillation predicts no units; leave data.units out.")
    modality = next(name for name, section in DATA_ARGUMENTS.items() if type(run.data) is section)
    with training.main_process_first(desc="data"):
        data = PREPARE[modality](run.data, seed=training.seed, encoder=run.model["teacher"])
    set_seed(training.seed)
    model = make_student(run.model, data)
    if isinstance(run.data, TextDataArguments):
        _check_length(model, run.data.max_length)
    train_and_save(run, model, data, modality, checkpoint=checkpoint, command=command)
    return output


def modality_of_teacher(values: Mapping[str, Any]) -> str:
    """`"vision"`, `"speech"` or `"text"`, of the teacher that a `model` section names.

    Raises:
        InputError: for a section without a teacher, or one that is no encoder.
    """
    reads = AutoModel._model_mapping[type(teacher_encoder_config(values))]
    reads = reads[0] if isinstance(reads, tuple) else reads
    if reads.main_input_name not in MODALITIES:
        raise InputError(
            f"{values['teacher']} reads {reads.main_input_name!r}; give an encoder that reads one of: "
            f"{', '.join(MODALITIES)}."
        )
    return MODALITIES[reads.main_input_name]


def teacher_encoder_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of the teacher's encoder.

    Raises:
        InputError: for a section without a teacher, or one that is no encoder (where a loss reads the scores of a
            vocabulary: no encoder with a head).
    """
    address = values.get("teacher")
    if not isinstance(address, str):
        raise InputError("The run names no teacher; add model.teacher=... , an encoder's folder or name on the Hub.")
    if not _reads_logits(values.get("losses")):
        return load_encoder_config(address)
    if (Path(address) / "encoder" / "config.json").is_file():
        raise InputError(
            f"{address} is the folder of a run; the losses logits and mlm read its head: give "
            f"{Path(address) / 'pretraining'}."
        )
    config = load_published(AutoConfig, address)
    return config.encoder_config if isinstance(config, SSLConfig) else config


def _reads_logits(losses: Any) -> bool:
    return isinstance(losses, Mapping) and any(LOSSES[name].reads_logits for name in losses if name in LOSSES)


def check_model_section(values: Mapping[str, Any]) -> None:
    """Refuse keys that mean nothing.

    Raises:
        InputError: for the first unknown key of the section, of its student or of its losses, or a student of another
            family.
    """
    config = teacher_encoder_config(values)
    valid = [*sorted(set(own_fields(DistillationConfig)) - set(DERIVED)), "student"]
    _check_names("key in section model", values, valid)
    student = values.get("student") or {}
    for section, content in (("losses", values.get("losses") or {}), ("student", student)):
        if not isinstance(content, Mapping):
            raise InputError(f"model.{section} is {content!r}; give model.{section}.<name>=<value>.")
    if student.get("model_type", config.model_type) != config.model_type:
        raise InputError(
            f"model.student.model_type is {student['model_type']!r}, but the teacher is a {config.model_type!r} "
            "encoder; a student is of its teacher's family: leave model_type out."
        )
    _check_names("loss (model.losses)", values.get("losses") or {}, LOSSES)
    _check_names(f"field of the student (config of {config.model_type})", student, _fields_of(config))


def _fields_of(config: PreTrainedConfig) -> list[str]:
    return ["model_type", *own_fields(type(config)), *config.attribute_map]


def _check_names(kind: str, names: Iterable[str], valid: Iterable[str]) -> None:
    for name in names:
        if name not in valid:
            raise unknown_name(kind, name, valid)


def make_student(values: Mapping[str, Any], data: PreparedData) -> DistillationModel:
    """The student with its teacher.

    Args:
        values (`Mapping[str, Any]`): the `model` section.
        data ([`PreparedData`]): its tokenizer decides which token stands for a hidden one.

    Raises:
        InputError: for a student, a teacher, data or losses that do not fit together.
    """
    fields = {name: value for name, value in values.items() if name not in ("teacher", "student")}
    updates = data.config_updates
    if "mask_token_id" in updates:
        vocabulary, theirs = updates["encoder_config"]["vocab_size"], teacher_encoder_config(values).vocab_size
        if vocabulary > theirs:
            raise InputError(
                f"The tokenizer has {vocabulary} tokens, the teacher only {theirs}; leave data.tokenizer out, so that "
                "it is the teacher's."
            )
        fields["mask_token_id"] = updates["mask_token_id"]
    try:
        with no_load_report():
            return DistillationModel.from_teacher(values["teacher"], values.get("student") or {}, **fields)
    except InputError:
        raise
    except (StrictDataclassError, ValueError) as error:  # such as a hidden size that its heads do not divide
        raise InputError(f"Section model of the run cannot be used: {error.__cause__ or error}.") from error


def _check_length(model: DistillationModel, max_length: int) -> None:
    """Sequences must fit into the positions of student and teacher, of which the student may have fewer."""
    most = num_positions(model.encoder)
    if most is not None and max_length > most:
        raise InputError(
            f"data.max_length is {max_length}, but the student has only {most} positions; lower data.max_length."
        )

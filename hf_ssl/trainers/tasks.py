"""The tasks that an encoder can be fine-tuned for."""

from dataclasses import dataclass

from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from hf_ssl.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the table of tasks.

    Args:
        auto_model (`type`): the transformers class that puts the task's head on an encoder.
        modality (`str`): `"vision"`, `"speech"` or `"text"`.
        metrics (`tuple[str, ...]`): names for [`hf_ssl.evaluation.metrics.load_metric`], the most telling first.
        pipeline (`str`): the task's name in `transformers.pipeline`.
    """

    auto_model: type[_BaseAutoModelClass]
    modality: str
    metrics: tuple[str, ...]
    pipeline: str


TASKS: dict[str, Task] = {
    "image-classification": Task(
        auto_model=AutoModelForImageClassification,
        modality="vision",
        metrics=("accuracy", "macro_f1"),
        pipeline="image-classification",
    ),
    "text-classification": Task(
        auto_model=AutoModelForSequenceClassification,
        modality="text",
        metrics=("accuracy", "macro_f1"),
        pipeline="text-classification",
    ),
    "token-classification": Task(
        auto_model=AutoModelForTokenClassification,
        modality="text",
        metrics=("macro_f1", "accuracy"),
        pipeline="token-classification",
    ),
    "audio-classification": Task(
        auto_model=AutoModelForAudioClassification,
        modality="speech",
        metrics=("accuracy", "macro_f1"),
        pipeline="audio-classification",
    ),
    "ctc": Task(
        auto_model=AutoModelForCTC,
        modality="speech",
        metrics=("wer", "cer"),
        pipeline="automatic-speech-recognition",
    ),
}


def task_named(name: str) -> Task:
    """The row of a task.

    Raises:
        InputError: for a name that is not in the table.
    """
    if name not in TASKS:
        raise unknown_name("task (model.task)", name, TASKS)
    return TASKS[name]

"""Labelled data for a model that is fine-tuned already: in its own classes or units, not in those of the data."""

from dataclasses import replace

from transformers import PreTrainedConfig

from hf_ssl.data.arguments import DataArguments, SpeechDataArguments
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.transcripts import TranscriptCollator, TranscriptForm
from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.error_rates import METRICS
from hf_ssl.modeling.blocks.pretrained import Processor
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.task_data import TaskData, alignable_splits, prepare_task


def finetuned_data(
    address: str, config: PreTrainedConfig, encoder_config: PreTrainedConfig, processor: Processor, data: DataArguments
) -> TaskData:
    """The splits that [`prepare_task`] makes, as a fine-tuned model reads them.

    Args:
        address (`str`): folder or repository of the model.
        config (`PreTrainedConfig`): of the model; `finetuning_task` names its task.
        encoder_config (`PreTrainedConfig`): of the encoder in it.
        processor ([`Processor`]): of the model.
        data ([`DataArguments`]): of the task's modality.

    Raises:
        InputError: for data that cannot be used, or of other classes than the model's.
    """
    task = config.finetuning_task
    if task == "ctc":
        assert isinstance(data, SpeechDataArguments)
        form = TranscriptForm(unit=config.text_unit, normalise=config.normalise_text)
        extractor = processor.feature_extractor
        data = replace(data, sampling_rate=extractor.sampling_rate)
        inputs = LabelledCollator(modality="speech", processor=extractor)
        return TaskData(
            alignable_splits(data, form, encoder_config, extractor),
            TranscriptCollator(inputs=inputs, tokenizer=processor.tokenizer),
            processor,
            {},
            METRICS[form.unit],
        )
    prepared = prepare_task(FineTuningModelArguments(encoder=address, task=task), data)
    known, found = (list(labels.values()) for labels in (config.id2label, prepared.config_updates["id2label"]))
    if found != known:
        raise InputError(
            f"{data.path} has the classes {', '.join(found)}, but {address} knows {', '.join(known)}; give data of "
            "those classes (data.label_column names their column)."
        )
    return prepared

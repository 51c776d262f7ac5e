"""The folder of a fine-tuned model: written at the end of a run, restored by one call."""

from pathlib import Path

from peft import PeftConfig
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.integrations import PeftAdapterMixin
from transformers.utils import find_adapter_config_file

from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import PROCESSORS
from hf_ssl.evaluation.load_report import no_load_report
from hf_ssl.modeling.blocks.pretrained import Processor
from hf_ssl.trainers.tasks import TASKS, Task


def load_finetuned(folder: str | Path, encoder: str | Path | None = None) -> tuple[PreTrainedModel, Processor]:
    """Restore what `hf-ssl finetune` left: a whole model, or an adapter with its head on its encoder.

    Args:
        folder (`str` or `Path`): the output folder of the run, or the Hub repository that it was pushed to.
        encoder (`str` or `Path`, *optional*): where the encoder of an adapter is now, if it was moved.

    Returns:
        the model, in evaluation mode, of the plain transformers class of its task (with the adapter's layers inside;
        hf_ssl's own `EncoderForCTC` where transformers has no CTC class of the encoder), its `config.id2label` as
        trained; and its processor (image processor, feature extractor, tokenizer, or for CTC a `Wav2Vec2Processor`).
        `transformers.pipeline` takes both.

    Raises:
        InputError: for a folder that no fine-tuning left, or an adapter whose encoder is not where it was.
    """
    address = str(folder)
    try:
        config = AutoConfig.from_pretrained(address)
        adapter = find_adapter_config_file(address)
    except (OSError, ValueError) as error:
        raise InputError(
            f"There is no fine-tuned model at {address} ({str(error).splitlines()[0]}); give the output folder of "
            "`hf-ssl finetune`."
        ) from error
    name = config.to_dict().get("finetuning_task")
    if name not in TASKS:
        raise InputError(
            f"{address} was not written by `hf-ssl finetune`; load it with transformers' own from_pretrained."
        )
    task = TASKS[name]
    if adapter is None:
        model = task.auto_model.from_pretrained(address, config=config)
    else:
        model = _load_adapted(address, task, config, encoder)
    return model.eval(), load_processor(address, name)


def load_processor(address: str, task_name: str) -> Processor:
    """The preprocessor saved with a fine-tuned model (for CTC with its tokenizer)."""
    if task_name == "ctc":
        return AutoProcessor.from_pretrained(address)
    return PROCESSORS[TASKS[task_name].modality].from_pretrained(address)


def _load_adapted(address: str, task: Task, config: PreTrainedConfig, encoder: str | Path | None) -> PreTrainedModel:
    base = str(encoder or PeftConfig.from_pretrained(address).base_model_name_or_path)
    try:
        with no_load_report():
            # A published classifier's head of another size is replaced by the adapter's.
            model = task.auto_model.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The adapter {address} belongs to the encoder {base}, which is not there; say where it is now with "
            f"load_finetuned({address!r}, encoder=...)."
        ) from error
    # The class's own `load_adapter` is another thing in the wav2vec 2.0 family (adapters of languages).
    PeftAdapterMixin.load_adapter(model, address)
    return model

"""The folder of a fine-tuned model: written at the end of a run, restored by one call."""

from functools import partial
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import PROCESSORS
from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.modeling.blocks.pretrained import Processor
from hf_ssl.trainers.task_model import load_with_head
from hf_ssl.trainers.tasks import TASKS, Task
from hf_ssl.tuners.adapter_folder import ALTERED, WEIGHTS, put_adapter, read_adapter
from hf_ssl.tuners.fingerprint import fingerprint, recorded_fingerprint


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
        InputError: for a folder that no fine-tuning left or that was altered since, or an adapter whose encoder is not
            where it was, or is another.
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
    except StrictDataclassError as error:
        raise InputError(f"The config.json of {address} cannot be used: {error.__cause__ or error}") from error
    name = config.to_dict().get("finetuning_task")
    if name not in TASKS:
        raise InputError(
            f"{address} was not written by `hf-ssl finetune`; load it with transformers' own from_pretrained."
        )
    task = TASKS[name]
    load = _load_whole if adapter is None else partial(_load_adapted, encoder=encoder)
    model = load(address, task, config)
    return model.eval(), load_processor(address, name)


def load_processor(address: str, task_name: str) -> Processor:
    """The preprocessor saved with a fine-tuned model (for CTC with its tokenizer).

    Raises:
        InputError: where a file of it is missing or cannot be read.
    """
    loader = AutoProcessor if task_name == "ctc" else PROCESSORS[TASKS[task_name].modality]
    try:
        return loader.from_pretrained(address)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(
            f"The preprocessor of the fine-tuned model {address} cannot be read ({reason}); fetch or train the model "
            "again."
        ) from error


def _load_whole(address: str, task: Task, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        with no_load_report():
            model, report = task.auto_model.from_pretrained(
                address, config=config, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        if cached_file(address, WEIGHTS, _raise_exceptions_for_missing_entries=False) is not None:
            raise InputError(f"The adapter {address} lacks its adapter_config.json; {ALTERED}.") from error
        raise InputError(
            f"The weights of {address} cannot be read ({str(error).splitlines()[0].rstrip('.')}); fetch or train the "
            "model again."
        ) from error
    strange = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if strange:
        raise InputError(
            f"The weights of {address} are not those of its config.json ({strange[0]} is missing or of another size); "
            "fetch or train the model again."
        )
    return model


def _load_adapted(address: str, task: Task, config: PreTrainedConfig, encoder: str | Path | None) -> PreTrainedModel:
    adapter, tensors = read_adapter(address)
    base = str(encoder or adapter.base_model_name_or_path)
    elsewhere = f"say where it is now with load_finetuned({address!r}, encoder=...)"
    try:
        found = AutoConfig.from_pretrained(base).model_type
    except (OSError, ValueError) as error:
        raise InputError(
            f"The adapter {address} belongs to the encoder {base}, which is not there; {elsewhere}."
        ) from error
    family = vars(config).get("encoder_config", config).model_type
    if found not in (family, config.model_type):
        raise InputError(
            f"The adapter {address} was trained on a {family} encoder, and {base} is a {found}; {elsewhere}."
        )
    try:
        # A published classifier's head of another size is replaced by the adapter's.
        model, _, lost = load_with_head(base, task, config)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"The weights of {base}, the encoder of the adapter {address}, cannot be read ({reason}); {elsewhere}."
        ) from error
    if lost:
        raise InputError(
            f"The adapter {address} was trained on another encoder than {base} ({lost[0]} is missing there or of "
            f"another size); {elsewhere}."
        )
    if recorded_fingerprint(config) not in (None, fingerprint(model.base_model)):
        raise InputError(
            f"The adapter {address} was trained on another encoder than {base}: of that architecture, but with other "
            f"weights; {elsewhere}."
        )
    put_adapter(model, adapter, tensors, address)
    return model

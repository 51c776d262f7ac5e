"""From an encoder checkpoint to a model for a task, and which of its parameters are trained."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.evaluation.encoders import load_encoder_config
from hf_ssl.modeling.blocks.drop_path import add_drop_path
from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.modeling.blocks.waveform import ENCODER_MASK_TIME_PROB
from hf_ssl.modeling.speech.encoder_ctc import EncoderForCTCConfig
from hf_ssl.trainers.build import own_fields
from hf_ssl.trainers.exit_arguments import ExitArguments
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.tasks import Task, task_named
from hf_ssl.tuners.adapting import adapter_config
from hf_ssl.tuners.fingerprint import RECORDED, fingerprint
from hf_ssl.tuners.freezing import head_parameters
from hf_ssl.tuners.methods import tuner_named

logger = logging.getLogger(__name__)

MASK_EMBEDDING = "masked_spec_embed"
"""The parameter of a speech encoder that stands for a masked frame; a checkpoint may lack it, and then it is drawn."""


class AdaptedModel(PeftModel):
    """A `PeftModel` that saves its label map (`config.json`) beside the adapter."""

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the adapter with the head, and the config."""
        # Without being told, PEFT takes CTC's vocabulary for resized embeddings, which a speech encoder does not have.
        super().save_pretrained(save_directory, save_embedding_layers=False, **kwargs)
        self.get_base_model().config.save_pretrained(save_directory)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """Write none: PEFT's is a form to fill in."""


def make_task_model(
    arguments: FineTuningModelArguments, config_updates: dict[str, Any]
) -> PreTrainedModel | AdaptedModel:
    """The encoder with the task's head, ready to train.

    Args:
        arguments ([`FineTuningModelArguments`]): the `model` section.
        config_updates (`dict[str, Any]`): what the data decides of the config: the label map, the vocabulary.

    Returns:
        the model in fp32; with a tuner, an [`AdaptedModel`] around it.

    Raises:
        InputError: for an encoder that does not exist, or cannot do the task, or is a checkpoint of something else.
    """
    task = task_named(arguments.task)
    config = load_encoder_config(arguments.encoder)
    has_drop_path = _change_config(config, arguments)
    if arguments.exits is not None:
        config = ExitArguments.of(arguments.exits).config(config)
    elif arguments.task == "ctc" and not _is_known(config, task):
        config = EncoderForCTCConfig(encoder_config=config)
    config.update({"finetuning_task": arguments.task, **config_updates})
    tuner = tuner_named(arguments.tuner)
    adapted = tuner.config_class is not None
    if adapted and getattr(config, "use_weighted_layer_sum", False):
        logger.info("The head of the adapter reads the last layer, not the weighted sum of all (SUPERB's).")
        config.use_weighted_layer_sum = False
    model, head_modules, lost = load_with_head(arguments.encoder, task, config)
    if lost:
        raise InputError(
            f"{arguments.encoder} does not hold the weights of a {config.model_type} encoder ({lost[0]} is missing); "
            "give a checkpoint that AutoModel.from_pretrained loads whole."
        )
    if arguments.mask_time_prob > 0 and MASK_EMBEDDING not in dict(model.base_model.named_parameters()):
        raise InputError(
            f"{arguments.encoder} ({config.model_type}) has no mask embedding; leave model.mask_time_prob out."
        )
    if arguments.drop_path and not has_drop_path:
        add_drop_path(model.base_model, arguments.drop_path)
    model.config.architectures = [type(model).__name__]  # an adapter's folder is else named after the bare encoder
    if tuner.freezer is not None:
        tuner.freezer(model)
    if "feature_extractor" in dict(model.base_model.named_children()) and (
        adapted or arguments.freeze_feature_encoder
    ):
        model.freeze_feature_encoder()  # not even a gradient goes through it then
    return _adapt(model, arguments, head_modules) if adapted else model


def encoder_of(model: PreTrainedModel | AdaptedModel) -> PreTrainedModel:
    """The encoder of a model for a task: all of it but the head; the adapter's layers are in it."""
    return (model.get_base_model() if isinstance(model, AdaptedModel) else model).base_model


def trainable_share(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)


def _change_config(config: PreTrainedConfig, arguments: FineTuningModelArguments) -> bool:
    """What is other in fine-tuning; transformers' own masks, which are drawn from a global generator, are off.

    Returns:
        whether the encoder has stochastic depth of its own.
    """
    valid, changes = own_fields(type(config)), dict(arguments.encoder_config or {})
    has_drop_path = "drop_path_rate" in valid
    if has_drop_path and arguments.drop_path is not None:
        changes["drop_path_rate"] = arguments.drop_path
    for name, value in changes.items():
        if name.startswith("mask_") or name == "apply_spec_augment":
            raise InputError(f"model.encoder_config.{name} has no effect here; use model.mask_time_prob and its like.")
        if name not in valid:
            raise unknown_name(f"key in config of {config.model_type} (model.encoder_config)", name, valid)
        try:
            setattr(config, name, value)
        except StrictDataclassError as error:
            raise InputError(f"model.encoder_config.{name} is {value!r}: {error.__cause__ or error}") from error
    fields = config.to_dict()
    if "mask_time_prob" in fields:
        config.apply_spec_augment = False
        if arguments.mask_time_prob > 0 and fields["mask_time_prob"] == 0:
            # Such an encoder would be built without a mask embedding.
            config.mask_time_prob = ENCODER_MASK_TIME_PROB
    return has_drop_path


def _is_known(config: PreTrainedConfig, task: Task) -> bool:
    return type(config) in task.auto_model._model_mapping


def load_with_head(encoder: str, task: Task, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str], list[str]]:
    """The model in fp32, the names of the modules of its head, and those of weights that its encoder was not given.

    Args:
        encoder (`str`): folder or Hub name. A head that it has is kept where it is of the size that the config says.
        task ([`Task`]): for which the head is.
        config (`PreTrainedConfig`): of the model.

    Raises:
        InputError: for an encoder that the task has no model of.
    """
    if not _is_known(config, task):
        raise InputError(
            f"{encoder} is a {config.model_type} encoder, which transformers has no {task.pipeline} model of; choose "
            "another encoder or another model.task."
        )
    # An absolute path stays right from wherever the adapter is loaded again.
    address = str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder
    with no_load_report():
        model, report = task.auto_model.from_pretrained(
            address, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    inside = f"{model.base_model_prefix}."
    changed = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])} - {inside + MASK_EMBEDDING}
    lost = sorted(key for key in changed if key.startswith(inside) and ".pooler." not in key)
    # The pooler belongs to the head, whether or not the checkpoint has one (of an objective of its own, as BERT's).
    names = head_parameters(model).keys() | changed.difference(lost)
    return model, sorted({name.rpartition(".")[0] for name in names}), lost


def _adapt(model: PreTrainedModel, arguments: FineTuningModelArguments, head_modules: Sequence[str]) -> AdaptedModel:
    """The tuner's adapter in the encoder; the head is trained and saved with it.

    Batch normalisations too: their running statistics follow the new data whether or not anything is trained.
    """
    norms = [name for name, module in model.base_model.named_modules() if isinstance(module, _BatchNorm)]
    modules_to_save = [*head_modules, *(f"{model.base_model_prefix}.{name}" for name in norms)]
    config = adapter_config(model, arguments.tuner, arguments.tuner_config or {}, modules_to_save)
    model.config.update({RECORDED: fingerprint(model.base_model)})
    try:
        return AdaptedModel(model, config)
    except InputError:
        raise
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(
            f"The tuner {arguments.tuner} cannot be put into {arguments.encoder} ({reason}); change "
            "model.tuner_config, or choose another tuner."
        ) from error

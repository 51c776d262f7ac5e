"""The folder of an adapter, read with care: a file that is missing or was altered is said, not guessed around."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_ssl.errors import InputError

WEIGHTS = "adapter_model.safetensors"
ALTERED = "fetch or train the adapter again, since its folder was altered"


def read_adapter(address: str | Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """The config and the tensors of an adapter.

    Args:
        address (`str` or `Path`): folder or Hub name of what PEFT saved.

    Raises:
        InputError: where one of the two files is missing or cannot be read, or the method is unknown.
    """
    return read_adapter_config(address), _read_tensors(str(address))


def read_adapter_config(address: str | Path) -> PeftConfig:
    """The config of an adapter.

    Raises:
        InputError: where it is missing or cannot be read, or the method is unknown.
    """
    try:
        return PeftConfig.from_pretrained(str(address))
    except KeyError as error:
        raise InputError(
            f"The adapter {address} is of the method {error.args[0]!r}, which is not known here; install the version "
            "of peft or hf_ssl that it was made with."
        ) from error
    except (OSError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"adapter_config.json of the adapter {address} cannot be read ({reason}); {ALTERED}."
        ) from error


def _read_tensors(address: str) -> dict[str, Tensor]:
    try:
        return load_file(str(cached_file(address, WEIGHTS)))
    except (OSError, SafetensorError, HFValidationError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{WEIGHTS} of the adapter {address} cannot be read ({reason}); {ALTERED}.") from error


def put_adapter(
    model: PreTrainedModel, config: PeftConfig, tensors: Mapping[str, Tensor], address: str | Path
) -> None:
    """Put an adapter into a model, in place, where every tensor of it has its place and every place its tensor.

    Args:
        model (`PreTrainedModel`): of the class that it was trained in.
        config (`PeftConfig`): the adapter's.
        tensors (`Mapping[str, Tensor]`): the adapter's.
        address (`str` or `Path`): its name for error messages.

    Raises:
        InputError: when it does not fit: another architecture or size of the encoder, another number of classes, or
            tensors that are missing or too many.
    """
    family = model.base_model.config.model_type
    try:
        adapted = PeftModel(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"The adapter {address} does not fit into the {family} encoder ({reason}); give the encoder that it was "
            "trained on."
        ) from error
    _check_fit(get_peft_model_state_dict(adapted, save_embedding_layers=False), tensors, config, family, address)
    set_peft_model_state_dict(adapted, dict(tensors))
    model._hf_peft_config_loaded = True  # transformers' own methods for adapters then know of it


def _check_fit(
    places: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    config: PeftConfig,
    family: str,
    address: str | Path,
) -> None:
    for what, names in (("lacks", places.keys() - tensors.keys()), ("has too many", tensors.keys() - places.keys())):
        if names:
            raise InputError(
                f"{WEIGHTS} of the adapter {address} {what} {len(names)} tensors, such as {min(names)}; {ALTERED} or "
                f"belongs to another encoder than the {family}."
            )
    others = [name for name, place in places.items() if place.shape != tensors[name].shape]
    if not others:
        return
    found, wanted = tuple(tensors[others[0]].shape), tuple(places[others[0]].shape)
    if all(_in_head(name, config.modules_to_save or ()) for name in others):
        raise InputError(
            f"The head of the adapter {address} ({others[0].removeprefix('base_model.model.')}) is for {found[0]} "
            f"classes and the labels of its config.json are {wanted[0]}; give the label map that it was trained with."
        )
    raise InputError(
        f"{others[0]} of the adapter {address} is of shape {found}, where the {family} encoder has {wanted}; give the "
        "encoder that it was trained on."
    )


def _in_head(name: str, modules: Sequence[str]) -> bool:
    return any(f".{module}." in name for module in modules)

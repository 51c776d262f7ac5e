"""From a transformers ResNet or ViT to a state dict by torchvision's or timm's names."""

import json
import os
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, ResNetConfig

from hf_ssl.errors import InputError, writing
from hf_ssl.hub.conversion.encoder_names import Names
from hf_ssl.hub.conversion.images.resnet import check_torchvision, resnet_names, torchvision_code
from hf_ssl.hub.conversion.images.vit import check_timm, join_qkv, layer_names, timm_code
from hf_ssl.hub.conversion.report import Conversion
from hf_ssl.hub.conversion.sidecar import contiguous
from hf_ssl.modeling.blocks.load_report import no_load_report

MODEL_TYPES = {"torchvision": "resnet", "timm": "vit"}
POOLER = "pooler."
"""Only in a ViT, and not read by its hidden states."""


def convert_to_names(source: str | Path, destination: str | Path, to: Literal["torchvision", "timm"]) -> Conversion:
    """Write the state dict of a `ResNetModel` by torchvision's names, or that of a `ViTModel` by timm's.

    Every weight keeps its bits; query, key and value become one `qkv`. A pooling layer or a classifier is left out.

    Args:
        source (`str` or `Path`): a folder that `AutoModel.from_pretrained` loads, such as the `encoder` of a run.
        destination (`str` or `Path`): a file that does not exist yet: `.safetensors`, else PyTorch's format.
        to (`str`): `"torchvision"` or `"timm"`.

    Returns:
        [`Conversion`], whose `kind` says what builds the model that loads it.

    Raises:
        InputError: for a source that is not that architecture, is not complete, or has settings that the other
            library's has not, or a destination that is taken.
    """
    folder, file = Path(source), Path(destination).resolve()
    if file.exists():
        raise InputError(f"{file} already exists; choose another file for the converted checkpoint.")
    model, left_out = _load(folder, MODEL_TYPES[to])
    code, names = _counterpart(model.config)
    here = join_qkv(model.state_dict())
    weights = contiguous({theirs: here[ours] for theirs, ours in names.items()})
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        staging = file.with_name(f"{file.name}.partial")
        if file.suffix == ".safetensors":
            save_file(weights, staging, metadata={"format": "pt"})
        else:
            torch.save(weights, staging)
        os.replace(staging, file)
    return Conversion(file, f"the state dict of {code}", left_out=sorted(left_out))


def _counterpart(config: PreTrainedConfig) -> tuple[str, Names]:
    """What builds the other library's model, and its name of each parameter → its name in ours."""
    if isinstance(config, ResNetConfig):
        check_torchvision(config)
        return torchvision_code(config), resnet_names(config)
    check_timm(config)
    return timm_code(config), layer_names(config.num_hidden_layers, qkv_bias=config.qkv_bias)


def _load(folder: Path, model_type: str) -> tuple[PreTrainedModel, list[str]]:
    """The bare encoder in the precision that it was saved in, and what its folder has besides."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"There is no checkpoint in {folder}, it has no config.json; give a folder that has one.")
    found = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    if found != model_type:
        raise InputError(
            f"{folder} holds a model of the type {found!r}, not {model_type!r}; of a pretraining checkpoint, make the "
            "encoder with hf-ssl export, other architectures have no counterpart."
        )
    try:
        with no_load_report():
            model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be loaded ({str(error).splitlines()[0]}); is it complete?") from error
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(POOLER))
    if missing:
        raise InputError(f"The checkpoint in {folder} lacks {', '.join(missing[:5])}; is it complete?")
    pooler = [name for name in model.state_dict() if name.startswith(POOLER)] if not loaded["missing_keys"] else []
    return model, [*loaded["unexpected_keys"], *pooler]

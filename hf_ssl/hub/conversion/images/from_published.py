"""From a published image backbone to a folder that `from_pretrained` loads."""

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import BitImageProcessorPil, PreTrainedConfig, PreTrainedModel, ResNetConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Weights
from hf_ssl.hub.conversion.encoder_names import Names
from hf_ssl.hub.conversion.from_fairseq import match_names
from hf_ssl.hub.conversion.images.reading import find_backbone
from hf_ssl.hub.conversion.images.resnet import resnet_config, resnet_names, torchvision_names, zero_counters
from hf_ssl.hub.conversion.images.sources import SOURCES, Source
from hf_ssl.hub.conversion.images.vit import HEAD_SIZE, check_dimensions, join_qkv, split_qkv, vit_config, vit_names
from hf_ssl.hub.conversion.report import Conversion
from hf_ssl.hub.conversion.sidecar import contiguous
from hf_ssl.modeling.blocks.pretrained import build_encoder

IMAGE_SIZE = 224
"""Of a ResNet, whose weights do not say it; all authors evaluate at 224 after resizing to 256."""


def convert_image_backbone(
    source: str | Path, destination: str | Path, origin: str | None = None, num_heads: int | None = None
) -> Conversion:
    """Convert a published ResNet or ViT into a `ResNetModel` or `ViTModel` with its image processor.

    Every weight keeps its bits; `qkv` is cut in three. Projectors, predictors, decoders, classifiers, momentum
    encoders and queues are not converted, and are listed in the report. The weights of a ResNet do not say where its
    strides are, nor whether it is dilated: torchvision's are taken.

    Args:
        source (`str` or `Path`): a `.pth`, `.pt`, `.ckpt`, `.torch`, `.tar` or `.safetensors`.
        destination (`str` or `Path`): a folder that does not exist yet, or is empty.
        origin (`str`, *optional*): a key of `SOURCES`; by default it is recognised by its names.
        num_heads (`int`, *optional*): attention heads of a ViT, which the weights do not say; by default the authors'
            number where it is known, else one per 64 channels.

    Returns:
        [`Conversion`]

    Raises:
        InputError: for a file that is no such checkpoint or pickles anything unknown, for missing or unknown weights,
            for an architecture that has no counterpart, or a destination that is taken.
    """
    destination = Path(destination).resolve()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} already exists; choose another folder for the converted checkpoint.")
    backbone = find_backbone(Path(source), origin)
    made_up: list[str] = []
    assumed: list[str] = []
    if any(name.startswith("patch_embed.") for name in backbone.weights):
        model = _vit(backbone.weights, SOURCES[backbone.source], num_heads, assumed)
    elif num_heads is None:
        model = _resnet(torchvision_names(backbone.weights), made_up)
    else:
        raise InputError("A ResNet has no attention; leave --num-attention-heads out.")
    processor = _processor(model.config, SOURCES[backbone.source], assumed)
    _write(destination, model, processor)
    return Conversion(
        destination,
        f"a {type(model).__name__}, read as {SOURCES[backbone.source].title}",
        left_out=backbone.left_out,
        made_up=made_up,
        assumed=assumed,
    )


def _resnet(weights: Weights, made_up: list[str]) -> PreTrainedModel:
    config = resnet_config(weights)
    names = resnet_names(config)
    counters = zero_counters(weights, names)
    made_up += counters
    converted, _ = match_names(weights | counters, names, explained_by="torchvision's names of a ResNet")
    return _with_weights(config, names, converted)


def _vit(weights: Weights, source: Source, num_heads: int | None, assumed: list[str]) -> PreTrainedModel:
    names = vit_names(weights)
    converted, _ = match_names(weights, names, explained_by="timm's names of a ViT")
    check_dimensions(weights)
    hidden_size = weights["cls_token"].shape[-1]
    if num_heads is None:
        num_heads = _known_heads(source, hidden_size)
        assumed.append(f"{num_heads} attention heads (of {hidden_size // num_heads} channels)")
    return _with_weights(vit_config(weights, num_heads), names, converted)


def _known_heads(source: Source, hidden_size: int) -> int:
    known = source.num_heads.get(hidden_size, hidden_size // HEAD_SIZE)
    if known is None or (hidden_size not in source.num_heads and hidden_size % HEAD_SIZE):
        raise InputError(
            f"How many attention heads a ViT of {hidden_size} channels from {source.title} has, its weights do not "
            "say, and no convention does; give it with --num-attention-heads."
        )
    return known


def _with_weights(config: PreTrainedConfig, names: Names, weights: Weights) -> PreTrainedModel:
    """The encoder with these weights, which are by its names except for `qkv`; without its pooling layer."""
    with torch.device("meta"):
        model = build_encoder(config, with_pooler=False)
    expected = join_qkv(model.state_dict())
    for theirs, here in names.items():
        if weights[here].shape != expected[here].shape:
            raise InputError(
                f"{theirs} has the shape {tuple(weights[here].shape)}, but in a {type(model).__name__} of the other "
                f"weights it would be {tuple(expected[here].shape)}; wide ResNets, ResNeXts and the like have no "
                "counterpart."
            )
    model.load_state_dict(contiguous(split_qkv(weights)), assign=True)
    return model


def _processor(config: PreTrainedConfig, source: Source, assumed: list[str]) -> BitImageProcessorPil:
    """Resize the shorter side to 8/7 of the image's, crop the centre, normalise as ImageNet: as all authors do."""
    if config.num_channels != len(IMAGENET_DEFAULT_MEAN):
        raise InputError(f"The encoder takes {config.num_channels} channels; only those of RGB images are converted.")
    size = IMAGE_SIZE if isinstance(config, ResNetConfig) else config.image_size
    resized = round(size * 256 / 224)
    assumed.append(
        f"images resized to {resized} and cropped to {size} pixels ({source.resample.name.lower()}), normalised with "
        "ImageNet's mean and deviation"
    )
    return BitImageProcessorPil(
        size={"shortest_edge": resized},
        crop_size={"height": size, "width": size},
        resample=source.resample,
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
    )


def _write(destination: Path, model: PreTrainedModel, processor: BitImageProcessorPil) -> None:
    staging = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        os.replace(staging, destination)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise InputError(f"{destination} could not be written ({error}); choose another folder.") from error

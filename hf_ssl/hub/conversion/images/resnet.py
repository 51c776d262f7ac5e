"""ResNets: torchvision's names ↔ those of transformers' `ResNetModel`.

Both put the stride of a bottleneck on its 3x3 convolution (often called v1.5), pad the 7x7 stem by 3, and normalise
with ε = 1e-5. SwAV and VICReg pad by 1 before a stem that pads by 2 (facebookresearch/swav@06b1b7c,
src/resnet50.py), which is the same.
"""

import re

import torch
from transformers import ResNetConfig

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Weights
from hf_ssl.hub.conversion.encoder_names import Names, affine

SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Place in `nn.Sequential(*resnet.children())`, as lightly's examples make it → torchvision's name."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
STAGES = range(1, 5)


def torchvision_names(weights: Weights) -> Weights:
    """The weights by torchvision's names, if they are numbered as the children of a `nn.Sequential`."""
    if "conv1.weight" in weights:
        return weights
    parts = {name: name.partition(".") for name in weights}
    return {f"{SEQUENTIAL.get(head, head)}.{rest}": weights[name] for name, (head, _, rest) in parts.items()}


def resnet_config(weights: Weights) -> ResNetConfig:
    """The config whose encoder has these weights.

    Args:
        weights (`dict[str, Tensor]`): by torchvision's names.

    Raises:
        InputError: for a stem that transformers' ResNet does not have.
    """
    stem = weights["conv1.weight"]
    if stem.shape[2:] != (7, 7):
        raise InputError(
            f"conv1.weight has the shape {tuple(stem.shape)}, not (D, C, 7, 7): ResNets for small images, such as "
            "solo-learn's for CIFAR, begin with 3x3, stride 1 and no pooling, but transformers' ResNetModel always "
            "with 7x7, stride 2 and max-pooling, and no config makes these the same function; convert one with the "
            "ImageNet stem."
        )
    depths = [_num_blocks(weights, stage) for stage in STAGES]
    bottleneck = "layer1.0.conv3.weight" in weights
    last = "conv3" if bottleneck else "conv2"
    return ResNetConfig(
        num_channels=stem.shape[1],
        embedding_size=stem.shape[0],
        hidden_sizes=[_num_rows(weights, f"layer{stage}.0.{last}.weight") for stage in STAGES],
        depths=depths,
        layer_type="bottleneck" if bottleneck else "basic",
        downsample_in_first_stage=False,
        downsample_in_bottleneck=False,
    )


def _num_blocks(weights: Weights, stage: int) -> int:
    found = [re.match(rf"layer{stage}\.(\d{{1,3}})\.", name) for name in weights]
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _num_rows(weights: Weights, name: str) -> int:
    """0 where there is no such weight, which the comparison of names then says."""
    return weights[name].shape[:1].numel() if name in weights else 0


def zero_counters(weights: Weights, names: Names) -> Weights:
    """`num_batches_tracked` of batch normalisations that were saved without it; nothing is computed from it."""
    counters = [name for name in names if name.endswith(".num_batches_tracked") and name not in weights]
    return {name: torch.tensor(0) for name in counters}


def resnet_names(config: ResNetConfig) -> Names:
    """The name in torchvision of everything in the state dict of a `ResNetModel` → its name there."""
    names = _conv_norm("conv1", "bn1", "embedder.embedder")
    num_convs = 3 if config.layer_type == "bottleneck" else 2
    incoming = config.embedding_size
    for stage, (size, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
        for block in range(depth):
            theirs, here = f"layer{stage + 1}.{block}", f"encoder.stages.{stage}.layers.{block}"
            for i in range(num_convs):
                names |= _conv_norm(f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}", f"{here}.layer.{i}")
        # Only the first block of a stage changes the shape; the first stage of basic blocks does not.
        if stage > 0 or size != incoming:
            first, here = f"layer{stage + 1}.0.downsample", f"encoder.stages.{stage}.layers.0.shortcut"
            names |= _conv_norm(f"{first}.0", f"{first}.1", here)
        incoming = size
    return names


def _conv_norm(convolution: str, norm: str, here: str) -> Names:
    """A convolution without bias, and the batch normalisation behind it."""
    statistics = {f"{norm}.{part}": f"{here}.normalization.{part}" for part in STATISTICS}
    return {f"{convolution}.weight": f"{here}.convolution.weight"} | affine(norm, f"{here}.normalization") | statistics


def check_torchvision(config: ResNetConfig) -> None:
    """Raise `InputError` for a ResNet that torchvision's cannot be the same function as."""
    for name, value in (
        ("hidden_act", "relu"),
        ("downsample_in_first_stage", False),
        ("downsample_in_bottleneck", False),
    ):
        found = getattr(config, name)
        if found != value:
            raise InputError(
                f"The ResNet has {name} = {found!r}, where torchvision's has {value!r}; under torchvision's names it "
                "would be another function."
            )
    if len(config.depths) != len(STAGES):
        raise InputError(f"The ResNet has {len(config.depths)} stages, torchvision's has 4; it has no counterpart.")


def torchvision_code(config: ResNetConfig) -> str:
    """The call that builds torchvision's counterpart."""
    block = "Bottleneck" if config.layer_type == "bottleneck" else "BasicBlock"
    usual = [64 * 2**stage * (4 if config.layer_type == "bottleneck" else 1) for stage in range(4)]
    if config.embedding_size != 64 or list(config.hidden_sizes) != usual:
        return (
            f"a ResNet of {block}s with layers {list(config.depths)} and widths {list(config.hidden_sizes)}, which "
            "torchvision itself does not build (SwAV's and VICReg's code does, with `widen`)"
        )
    return f"torchvision.models.resnet.ResNet({block}, {list(config.depths)}), its fc replaced by nn.Identity()"

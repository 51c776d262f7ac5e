"""Vision Transformers: timm's names, which most authors took over, ↔ those of transformers' `ViTModel`.

timm's `qkv` is the rows of query, key and value, one below the other, each with its heads side by side
(huggingface/pytorch-image-models@aa4b585, facebookresearch/dino@7c446df). Layer norms have ε = 1e-6 in timm, DINO,
iBOT, MAE, MoCo v3 and VISSL, against 1e-12 in transformers' default.
"""

import math
import re

import torch
from transformers import ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Weights
from hf_ssl.hub.conversion.encoder_names import Names, affine

LAYER_NORM_EPS = 1e-6
HEAD_SIZE = 64
"""Channels of an attention head, by convention."""

LAYER = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
DIMENSIONS = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}
"""Of the parameters that the config is read from."""

PARTS = ("q_proj", "k_proj", "v_proj")


def vit_names(weights: Weights) -> Names:
    """The name in timm of every parameter → its name in a `ViTModel`, but with query, key and value still as `qkv`."""
    found = [re.match(r"blocks\.(\d{1,3})\.", name) for name in weights]
    depth = 1 + max((int(match[1]) for match in found if match), default=0)
    return layer_names(depth, qkv_bias="blocks.0.attn.qkv.bias" in weights)


def layer_names(depth: int, *, qkv_bias: bool) -> Names:
    """As [`vit_names`], from what a config says."""
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    names |= affine("patch_embed.proj", "embeddings.patch_embeddings.projection")
    for i in range(depth):
        for theirs, here in LAYER.items():
            names |= affine(f"blocks.{i}.{theirs}", f"layers.{i}.{here}")
        if not qkv_bias:
            del names[f"blocks.{i}.attn.qkv.bias"]
    return names | affine("norm", "layernorm")


def split_qkv(weights: Weights) -> Weights:
    """Query, key and value each by its name in a `ViTModel`."""
    split: Weights = {}
    for name, weight in weights.items():
        if ".qkv." in name:
            split |= {name.replace("qkv", part): rows for part, rows in zip(PARTS, weight.chunk(3), strict=True)}
        else:
            split[name] = weight
    return split


def join_qkv(weights: Weights) -> Weights:
    """The reverse of [`split_qkv`]."""
    joined: Weights = {}
    for name, weight in weights.items():
        part = next((part for part in PARTS if f".{part}." in name), None)
        if part is None:
            joined[name] = weight
        elif part == PARTS[0]:
            joined[name.replace(part, "qkv")] = torch.cat([weights[name.replace(part, other)] for other in PARTS])
    return joined


def check_dimensions(weights: Weights) -> None:
    """Raise `InputError` where a config could not be read from the shapes."""
    for name, num_dimensions in DIMENSIONS.items():
        if weights[name].ndim != num_dimensions:
            raise InputError(
                f"{name} has the shape {tuple(weights[name].shape)}, where a ViT's has {num_dimensions} dimensions; "
                "is the checkpoint damaged?"
            )


def vit_config(weights: Weights, num_heads: int) -> ViTConfig:
    """The config whose encoder has these weights.

    Args:
        weights (`dict[str, Tensor]`): by timm's names.
        num_heads (`int`): of the attention; the weights do not say it.

    Raises:
        InputError: for patches or images that are not square, or heads that do not divide the width.
    """
    patches, hidden_size = weights["patch_embed.proj.weight"], weights["cls_token"].shape[-1]
    if patches.shape[2] != patches.shape[3]:
        raise InputError(
            f"patch_embed.proj.weight has the shape {tuple(patches.shape)}; only square patches (D, C, P, P) are "
            "converted."
        )
    num_patches = weights["pos_embed"].shape[1] - 1
    side = math.isqrt(max(0, num_patches))
    if num_patches < 1 or side**2 != num_patches:
        raise InputError(
            f"pos_embed has {num_patches + 1} positions, which is not one for the class token and a square of "
            "patches; distillation tokens, registers and images that are not square are not converted."
        )
    if num_heads < 1 or hidden_size % num_heads:
        raise InputError(
            f"{num_heads} attention heads do not divide {hidden_size} channels; give a divisor with "
            "--num-attention-heads."
        )
    return ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len([name for name in vit_names(weights) if name.endswith("attn.qkv.weight")]),
        num_attention_heads=num_heads,
        intermediate_size=len(weights["blocks.0.mlp.fc1.weight"]),
        hidden_act="gelu",
        layer_norm_eps=LAYER_NORM_EPS,
        image_size=side * patches.shape[2],
        patch_size=patches.shape[2],
        num_channels=patches.shape[1],
        qkv_bias="blocks.0.attn.qkv.bias" in weights,
    )


def check_timm(config: ViTConfig) -> None:
    """Raise `InputError` for a ViT that timm's cannot be the same function as."""
    if config.hidden_act != "gelu":
        raise InputError(
            f"The ViT has hidden_act = {config.hidden_act!r}, where timm's has 'gelu'; under timm's names it would be "
            "another function."
        )


def timm_code(config: ViTConfig) -> str:
    """The call that builds timm's counterpart, with every setting that the weights do not say."""
    return (
        f"timm.models.VisionTransformer(img_size={config.image_size}, patch_size={config.patch_size}, "
        f"in_chans={config.num_channels}, embed_dim={config.hidden_size}, depth={config.num_hidden_layers}, "
        f"num_heads={config.num_attention_heads}, mlp_ratio={config.intermediate_size / config.hidden_size}, "
        f"qkv_bias={config.qkv_bias}, num_classes=0, "
        f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={config.layer_norm_eps:g}))"
    )

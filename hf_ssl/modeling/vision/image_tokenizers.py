"""Image tokenizers: models that turn an image into a grid of discrete tokens, and are never trained here."""

# N images of C x H x W pixels, h x w patches, V tokens

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ChameleonVQVAE, JanusVQVAE, PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import unknown_name
from hf_ssl.modeling.vision.patch_codebook import PatchCodebook

TOKENIZERS: Mapping[str, type[PreTrainedModel]] = {
    "patch-codebook": PatchCodebook,
    "chameleon_vqgan": ChameleonVQVAE,
    "janus_vqgan": JanusVQVAE,
}
"""The model of each `model_type`; all read pixels in [-1, 1]."""


def tokenizer_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The model of a tokenizer's config.

    Raises:
        InputError: for something that is no image tokenizer, or one that is not known.
    """
    if config.model_type not in TOKENIZERS:
        raise unknown_name("image tokenizer (tokenizer_config.model_type)", config.model_type, TOKENIZERS)
    return TOKENIZERS[config.model_type]


def tokenizer_stride(config: PreTrainedConfig) -> int:
    """Pixels, along one side, that a token stands for."""
    if config.model_type == "patch-codebook":
        return config.patch_size
    return 2 ** (len(config.channel_multiplier) - 1)


@torch.no_grad()
def tokens_of(tokenizer: PreTrainedModel, colours: Tensor, grid: tuple[int, int]) -> Tensor:
    """One token for each patch of an image.

    Args:
        tokenizer (`PreTrainedModel`): see [`tokenizer_class`].
        colours (`Tensor` of shape `(N, C, H, W)`): in [0, 1], fp32.
        grid (`tuple[int, int]`): h and w. The images are resized to as many pixels as make the tokenizer give that
            many tokens: for BEiT's own, 112 of 224.

    Returns:
        `Tensor` of shape `(N, h·w)`, int64, in 0 … V − 1.
    """
    stride = tokenizer_stride(tokenizer.config)
    size = (grid[0] * stride, grid[1] * stride)
    if size != tuple(colours.shape[-2:]):
        colours = F.interpolate(colours, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    with torch.autocast(colours.device.type, enabled=False):
        tokens = tokenizer.encode(2 * colours - 1)
    if not isinstance(tokens, Tensor):  # transformers' own give an output of several parts
        tokens = tokens.image_tokens
    return tokens.view(len(colours), grid[0] * grid[1])

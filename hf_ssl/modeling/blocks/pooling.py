"""One vector for each example from what a transformers encoder returns."""

# B batch, T tokens or frames, D hidden, H x W positions of a feature map

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError, unknown_name

POOLINGS = ("mean", "cls")
CLASS_TOKENS = ("cls_token", "class_embedding")
"""The names that transformers gives the parameter of an image encoder's class token."""


def check_pooling(pooling: str) -> None:
    """Raise `InputError` unless `pooling` is one of `POOLINGS`."""
    if pooling not in POOLINGS:
        raise unknown_name("pooling", pooling, POOLINGS)


def has_class_token(encoder: PreTrainedModel) -> bool:
    """Whether an encoder has a class token at the first position, as every encoder of text does."""
    reads_text = encoder.main_input_name == "input_ids" and "image" not in encoder.input_modalities
    return reads_text or any(name.endswith(CLASS_TOKENS) for name, _ in encoder.named_parameters())


def check_class_token(encoder: PreTrainedModel) -> None:
    """Raise `InputError` for an encoder without a class token at the first position."""
    if not has_class_token(encoder):
        raise InputError(
            f"The encoder '{encoder.config.model_type}' has no class token to pool by; give the pooling 'mean'."
        )


def pool(hidden: Tensor, pooling: str = "mean", attention_mask: Tensor | None = None) -> Tensor:
    """Pool one layer of an encoder into one vector per example.

    Args:
        hidden: a feature map (B, D, H, W) of a convolutional encoder, or a sequence (B, T, D). Any layer of
            `hidden_states` will do, not only the last.
        pooling: `"mean"` over all positions, or `"cls"`: the first position, for encoders that put a class token
            there (ViT, DINOv2, BEiT, BERT; not Swin, and not speech encoders). A feature map has no class token and
            is averaged over H and W whatever `pooling` says.
        attention_mask: (B, T), 1 = keep. Positions with 0 do not enter the mean. It counts the positions of `hidden`,
            which for speech are frames and not samples. A row that keeps nothing gives zeros.

    Returns:
        (B, D), in the dtype of `hidden`.
    """
    check_pooling(pooling)
    if hidden.dim() == 4:
        return hidden.mean(dim=(2, 3))
    if pooling == "cls":
        return hidden[:, 0]
    if attention_mask is None:
        return hidden.mean(dim=1)
    keep = attention_mask.to(hidden.dtype)[:, :, None]  # (B, T, 1)
    # where, and not a product: a padded position may hold NaN, and 0 * NaN is NaN
    kept = torch.where(keep > 0, hidden, 0.0)
    return kept.sum(dim=1) / keep.sum(dim=1).clamp(min=1)


def hidden_size_of(config: PreTrainedConfig) -> int:
    """The D of an encoder's last layer, read from its config.

    Transformers spells it `hidden_size` (or a name mapped to it) in most encoders and `hidden_sizes[-1]` in staged
    convolutional ones.

    Raises:
        InputError: the config has neither.
    """
    fields = config.to_dict()
    if "hidden_size" in fields or "hidden_size" in config.attribute_map:
        return config.hidden_size
    if fields.get("hidden_sizes"):
        return fields["hidden_sizes"][-1]
    raise InputError(
        f"The encoder '{config.model_type}' has neither hidden_size nor hidden_sizes in its config; "
        "use an encoder that has one (ViT, DINOv2, Swin, ResNet, ConvNext, BERT, HuBERT ...)."
    )

"""Image encoders, and what they make of several views of each image."""

# B images of this process, V views, C x H x W pixels, D hidden size

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.batch_norm import join_batch_norms
from hf_ssl.modeling.blocks.pooling import check_class_token, pool


@dataclass
class EncodedViews(ModelOutput):
    """What an encoder makes of the views of B images.

    Args:
        features (`Tensor` of shape `(B, V, D)`, *optional*): one vector a view.
        teacher_features (`Tensor` of shape `(B, V', D)`, *optional*): the teacher's, without gradient, of the views
            that it is shown.
        hidden_states (`tuple[Tensor, ...]`, *optional*): the encoder's, with `output_hidden_states=True`.
        attentions (`tuple[Tensor, ...]`, *optional*): the encoder's, with `output_attentions=True`.
    """

    features: Tensor | None = None
    teacher_features: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def ready_image_encoder(
    encoder: PreTrainedModel, title: str, pooling: str = "mean", *, joint_batch_norm: bool = True
) -> None:
    """Check that an encoder reads images, and make it ready to be trained on whole views.

    A mask token, which whole images never need, is frozen.

    Args:
        encoder (`PreTrainedModel`): changed in place.
        title (`str`): the objective's, for the message.
        pooling (`str`): `"cls"` needs a class token.
        joint_batch_norm (`bool`): its batch norms take the statistics of all processes; else of their own process.

    Raises:
        InputError: for an encoder of something else, or without the class token that is asked for.
    """
    if encoder.main_input_name != "pixel_values":
        raise InputError(
            f"The encoder '{encoder.config.model_type}' reads {encoder.main_input_name}; "
            f"{title} needs an image encoder (vit, dinov2, resnet, convnext, swin ...)."
        )
    if pooling == "cls":
        check_class_token(encoder)
    for name, parameter in encoder.named_parameters():
        if name.endswith("mask_token"):
            parameter.requires_grad = False
    if joint_batch_norm:
        join_batch_norms(encoder)


def check_views(pixel_values: Tensor, num_views: int, title: str) -> None:
    """Raise `InputError` unless `pixel_values` has the shape (B, `num_views`, C, H, W)."""
    if pixel_values.dim() != 5 or pixel_values.shape[1] != num_views:
        raise InputError(
            f"pixel_values has the shape {tuple(pixel_values.shape)}; "
            f"{title} takes (batch, {num_views} views, channels, height, width)."
        )


def check_squares(pixel_values: Tensor, title: str) -> None:
    """Raise `InputError` unless `pixel_values` has the shape (B, C, S, S): one square image an item."""
    if pixel_values.dim() != 4 or pixel_values.shape[2] != pixel_values.shape[3]:
        raise InputError(
            f"pixel_values has the shape {tuple(pixel_values.shape)}; {title} takes one square image an item: "
            "(batch, channels, side, side)."
        )


def encode_views(encoder: PreTrainedModel, pixel_values: Tensor, pooling: str, **kwargs: Any) -> EncodedViews:
    """All views in one pass, so that batch normalisation sees them jointly.

    Args:
        encoder (`PreTrainedModel`): any image encoder.
        pixel_values (`Tensor` of shape `(B, V, C, H, W)`): views of one size, which may differ from the size that the
            encoder's positions are made for.
        pooling (`str`): see [`pool`].
        kwargs: further arguments of the encoder.

    Returns:
        [`EncodedViews`] with `features` (B, V, D).
    """
    num_images, num_views = pixel_values.shape[:2]
    views = pixel_values.transpose(0, 1).flatten(0, 1)  # (V B, C, H, W): first views of all images, then second
    views = views.contiguous(memory_format=torch.channels_last)  # the layout in which convolutions are fastest
    encoded = encoder(pixel_values=views, **interpolation(encoder, views), **kwargs)
    features = pool(encoded.last_hidden_state, pooling).view(num_views, num_images, -1)
    return EncodedViews(
        features=features.transpose(0, 1),
        hidden_states=encoded.get("hidden_states"),
        attentions=encoded.get("attentions"),
    )


def encode_multi_crop(
    encoder: PreTrainedModel, pixel_values: Tensor, local_pixel_values: Tensor | None, pooling: str, **kwargs: Any
) -> EncodedViews:
    """Global views in one pass and, where there are any, small local views in another (SwAV's multi-crop).

    Args:
        encoder (`PreTrainedModel`): any image encoder.
        pixel_values (`Tensor` of shape `(B, V, C, S, S)`): global views.
        local_pixel_values (`Tensor` of shape `(B, L, C, s, s)`, *optional*): local views.
        pooling (`str`): see [`pool`].
        kwargs: further arguments of the encoder.

    Returns:
        [`EncodedViews`] with `features` (B, V + L, D), the global views' first; the rest is that of the global views.
    """
    encoded = encode_views(encoder, pixel_values, pooling, **kwargs)
    if local_pixel_values is not None:
        of_local = encode_views(encoder, local_pixel_values, pooling, **kwargs).features
        assert encoded.features is not None
        assert of_local is not None
        encoded.features = torch.cat([encoded.features, of_local], dim=1)
    return encoded


def encode_each_view(encoder: PreTrainedModel, pixel_values: Tensor, pooling: str, **kwargs: Any) -> EncodedViews:
    """Each view in a pass of its own, so that batch normalisation sees one view at a time (BYOL, SimSiam ...).

    Without batch norm that makes no difference, and all views go through in one pass. Arguments and result are those
    of [`encode_views`].
    """
    if not any(isinstance(module, _BatchNorm) for module in encoder.modules()):
        return encode_views(encoder, pixel_values, pooling, **kwargs)
    passes = [encode_views(encoder, view, pooling, **kwargs) for view in pixel_values.split(1, dim=1)]
    joined: dict[str, Any] = {"features": torch.cat([encoded["features"] for encoded in passes], dim=1)}
    for name in ("hidden_states", "attentions"):
        if name in passes[0]:
            joined[name] = tuple(torch.cat(layers) for layers in zip(*(p[name] for p in passes), strict=True))
    return EncodedViews(**joined)


def interpolation(encoder: PreTrainedModel, pixel_values: Tensor) -> dict[str, bool]:
    """What tells an encoder to interpolate its positions, for images (N, C, H, W) of another size than theirs."""
    size = getattr(encoder.config, "image_size", None)
    sizes = (size, size) if isinstance(size, int) else size
    takes_it = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    if takes_it and sizes is not None and tuple(sizes) != tuple(pixel_values.shape[-2:]):
        return {"interpolate_pos_encoding": True}
    return {}

"""Image encoders of patches that see mask tokens in place of some patches, or only some of the patches.

One mechanism for the ViT-like encoders of transformers, which keep the same names: `embeddings.patch_embeddings` turns
an image into patches, `embeddings` puts positions and prefix tokens (class, distillation, registers) to them. Hooks
that live for one forward pass change what these return; nothing of an architecture is repeated here.
"""

# N images, P = h x w patches, K visible patches, D dimensions of a patch embedding, R prefix tokens

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.patches import take_patches
from hf_ssl.modeling.blocks.views import ready_image_encoder

FAMILY = "vit, deit, dinov2, dinov2_with_registers, dinov3_vit, beit, data2vec-vision, vit_mae, vit_msn, ijepa"

PREFIX_TOKENS = ("cls_token", "distillation_token", "register_tokens")
"""The names that transformers gives the tokens which stand before the patches."""


def ready_patch_encoder(encoder: PreTrainedModel, title: str, *, hierarchical: bool = False) -> None:
    """Check that an encoder sees an image as patches that can be masked, and make it keep their order.

    Otherwise as [`ready_image_encoder`]. A ViT-MAE shuffles its patches even where it leaves none out, unless a hook
    that stays orders them.

    Args:
        encoder (`PreTrainedModel`): changed in place; of a ViT-MAE, `mask_ratio` is 0 ([`ImageSSLConfig`]).
        title (`str`): the objective's, for the message.
        hierarchical (`bool`): whether the encoder may merge patches, as Swin does.

    Raises:
        InputError: for an encoder without patches, such as ResNet, or one that keeps them elsewhere or merges them.
    """
    ready_image_encoder(encoder, title)
    modules, fields = dict(encoder.named_modules()), encoder.config.to_dict()
    is_transformer = "num_attention_heads" in fields or (hierarchical and "num_heads" in fields)
    if "embeddings.patch_embeddings" not in modules or not is_transformer or "num_detection_tokens" in fields:
        others = ", swin, swinv2" if hierarchical else ""
        raise InputError(
            f"The encoder '{encoder.config.model_type}' has no patches that can be masked one by one; {title} needs "
            f"another ({FAMILY}{others})."
        )
    if encoder.config.model_type == "vit_mae":
        modules["embeddings"].register_forward_pre_hook(_keep_order, with_kwargs=True)


def _keep_order(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Ascending "noise", by which ViT-MAE sorts its patches."""
    pixel_values = args[0]
    rows, columns = patch_grid(module.config, (pixel_values.shape[2], pixel_values.shape[3]))
    noise = torch.arange(rows * columns, device=pixel_values.device).expand(len(pixel_values), -1)
    return args, {**kwargs, "noise": noise}


def patch_grid(encoder_config: PreTrainedConfig, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of patches; `image_size` is height and width in pixels, by default the encoder's own.

    Raises:
        InputError: when the patches do not fill the images.
    """
    rows, columns = patch_sides(encoder_config)
    height, width = image_size or _pair(encoder_config.image_size)
    if height % rows or width % columns:
        raise InputError(
            f"An image of {height} x {width} pixels does not divide into patches of {rows} x {columns}; change "
            "encoder_config.patch_size or the size of the images (data.image_size)."
        )
    return height // rows, width // columns


def patch_sides(encoder_config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of a patch, in pixels."""
    return _pair(encoder_config.patch_size)


def patch_dim(encoder_config: PreTrainedConfig) -> int:
    """D, of a patch embedding and so of a mask token: the hidden size, or of Swin its first stage's."""
    fields = encoder_config.to_dict()
    return fields.get("embed_dim", fields["hidden_size"])


def num_prefix_tokens(encoder: PreTrainedModel) -> int:
    """R: how many tokens stand before the patches in an encoder's sequence."""
    embeddings = encoder.get_submodule("embeddings")
    tokens = dict(embeddings.named_parameters(recurse=False))
    return sum(tokens[name].shape[1] for name in PREFIX_TOKENS if name in tokens)


@contextmanager
def masked_patches(encoder: PreTrainedModel, mask: Tensor, mask_token: Tensor) -> Iterator[None]:
    """Lets an encoder see a token in place of the masked patches, as long as the context lasts.

    It stands there before positions are added, in Swin after the embedding's norm, as transformers has it
    (`bool_masked_pos`, for which an encoder needs a mask token of its own).

    Args:
        encoder (`PreTrainedModel`): see [`ready_patch_encoder`].
        mask (boolean `Tensor` of shape `(N, P)`): `True` = masked; patches row by row.
        mask_token (`Tensor` of shape `(D,)`, or whatever broadcasts to `(N, P, D)`): see [`patch_dim`].

    Raises:
        InputError: in the encoder's forward, for a mask of another shape.
    """

    def put_token(patches: Tensor) -> Tensor:
        if mask.shape != patches.shape[:2]:
            raise InputError(
                f"The mask has the shape {tuple(mask.shape)} but the encoder {tuple(patches.shape[:2])} (images, "
                "patches); make it for the size of these images."
            )
        return torch.where(mask[..., None], mask_token.to(patches.dtype), patches)

    with changed_patches(encoder, put_token):
        yield


@contextmanager
def changed_patches(encoder: PreTrainedModel, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """As [`masked_patches`]: `change` takes the patch embeddings (N, P, D) and gives what stands in their place."""
    modules = dict(encoder.named_modules())
    last = "embeddings.norm" if "embeddings.norm" in modules else "embeddings.patch_embeddings"
    with _changed_output(modules[last], change):
        yield


@contextmanager
def visible_patches(encoder: PreTrainedModel, keep: Tensor) -> Iterator[None]:
    """Lets the layers of an encoder see the prefix tokens and some of the patches, as long as the context lasts.

    Each kept patch has its own position's embedding (of DINOv3 its own angle); the layers cost what K patches cost.

    Args:
        encoder (`PreTrainedModel`): see [`ready_patch_encoder`].
        keep (`Tensor` of shape `(N, K)`, int64): the patches, in the order in which they come out after the prefix.

    Raises:
        InputError: for an encoder whose layers need the whole grid (windows of Swin, relative positions of BEiT).
    """
    check_visible_patches(encoder.config)
    num_prefix = num_prefix_tokens(encoder)

    def keep_tokens(tokens: Tensor) -> Tensor:  # (N, R + P, D) to (N, R + K, D)
        prefix, patches = tokens.tensor_split([num_prefix], dim=1)
        return torch.cat([prefix, take_patches(patches, keep)], dim=1)

    def keep_angles(module: nn.Module, args: Any, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(of_patches[keep][:, None] for of_patches in angles)  # (P, d) to (N, 1, K, d), one for all heads

    modules = dict(encoder.named_modules())
    with ExitStack() as stack:
        stack.enter_context(_changed_output(modules["embeddings"], keep_tokens))
        if "rope_embeddings" in modules:
            handle = modules["rope_embeddings"].register_forward_hook(keep_angles)
            stack.callback(handle.remove)
        yield


def check_visible_patches(encoder_config: PreTrainedConfig) -> None:
    """Raise `InputError` for an encoder whose layers cannot read some of the patches alone."""
    fields = encoder_config.to_dict()
    relative = fields.get("use_relative_position_bias") or fields.get("use_shared_relative_position_bias")
    if "window_size" in fields or relative:
        reason = "has positions relative to the whole grid" if relative else "works on windows of the whole grid"
        raise InputError(
            f"The encoder '{encoder_config.model_type}' {reason}, so it cannot see some patches alone; take one with "
            "absolute positions (vit, deit, dinov2, beit without relative position bias)."
        )


@contextmanager
def _changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Lets `change` act on the sequence (N, P, D) that a module returns, by itself, as a map, or first of a tuple."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # with the grid's size (data2vec-vision), or a mask (ViT-MAE)
            return (change(output[0]), *output[1:])
        if output.dim() == 4:  # a convolution's map (DINOv3)
            return change(output.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, output.shape[2:])
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])

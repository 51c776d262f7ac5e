"""What a layer receives beside the states of the tokens, extended to prompts that stand before them.

A prompt may be attended to by every token, and attends to what any token may; it has no position. So it is at distance
0 from every token, no rotation turns it, and no bias of a position is added to its scores. Only where layers make or
need distances by the order of what they get (WavLM, wav2vec 2.0-BERT, the Conformer with relative positions), and for
the convolutions of the latter two, prompts are as frames before the recording.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def extend_mask(mask: Tensor, num_prompts: int) -> Tensor:
    """A mask of the attention, or of a convolution, over prompts and tokens.

    Args:
        mask (`Tensor` of shape `(B, T)`, or `(B or 1, heads or 1, T or 1, T)`): boolean or 0 and 1, of which `True`
            and 1 let through; or, of four axes and floating, what is added to the scores, biases of positions too.
        num_prompts (`int`): P.

    Returns:
        `Tensor` of shape `(B, P + T)`, or `(B or 1, heads or 1, P + T or 1, P + T)`.
    """
    if mask.dim() == 2:
        return torch.cat([mask.new_ones(len(mask), num_prompts), mask], dim=1)
    from_any = mask.amax(dim=-2, keepdim=True)
    through: float | bool = 1
    if mask.is_floating_point():
        through, lowest = 0.0, torch.finfo(mask.dtype).min
        from_any = torch.zeros_like(from_any).masked_fill(from_any < lowest / 2, lowest)
    if mask.shape[-2] > 1:
        mask = torch.cat([from_any.expand(-1, -1, num_prompts, -1), mask], dim=-2)
    return torch.cat([mask.new_full((*mask.shape[:-1], num_prompts), through), mask], dim=-1)


def extend_bias(bias: Tensor, num_prompts: int) -> Tensor:
    """A bias of positions, or relative positions, `(..., T, T)` to `(..., P + T, P + T)`."""
    return F.pad(bias, (num_prompts, 0, num_prompts, 0))


def extend_rotation(rotation: tuple[Tensor, Tensor], num_prompts: int) -> tuple[Tensor, Tensor]:
    """The cosines and sines of a rotary embedding, each `(B or 1, T, head_dim)` to `(B or 1, P + T, head_dim)`."""
    cos, sin = rotation
    return F.pad(cos, (0, 0, num_prompts, 0), value=1.0), F.pad(sin, (0, 0, num_prompts, 0))


def extend_stacked_rotation(rotation: Tensor, num_prompts: int) -> Tensor:
    """The same in one tensor, as the Conformers have it: `(2, T, 1, 1, head_dim)` to `(2, P + T, 1, 1, head_dim)`."""
    cos, sin = rotation.flatten(2)
    return torch.stack(extend_rotation((cos[None], sin[None]), num_prompts)).reshape(
        2, num_prompts + rotation.shape[1], *rotation.shape[2:]
    )


EXTENSIONS: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "attention_mask": extend_mask,
    "conv_attention_mask": extend_mask,  # of the Conformers
    "position_bias": extend_bias,  # MPNet
    "relative_position_bias": extend_bias,  # data2vec-vision, where all layers share one
    "relative_pos": extend_bias,  # DeBERTa: distances
    "position_embeddings": extend_rotation,  # ModernBERT
    "relative_position_embeddings": extend_stacked_rotation,  # the Conformers, where these are rotary
}
"""By the name of the argument of a layer's forward; all others are the same for prompts and tokens."""

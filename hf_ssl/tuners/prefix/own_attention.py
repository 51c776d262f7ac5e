"""Families that compute their attention themselves, instead of asking transformers for an attention function.

What differs between them is how scores are scaled and biased. So each is the projections and the bias of its module,
one attention that joins the prefix, and the projection of the output; with an empty prefix, what the module gives.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.data2vec.modeling_data2vec_vision import (
    Data2VecVisionSdpaSelfAttention,
    Data2VecVisionSelfAttention,
)
from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention as DebertaSelfAttention
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention as DebertaV2SelfAttention
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention
from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from hf_ssl.errors import InputError
from hf_ssl.tuners.prefix.joining import join, open_to_prefix


class OwnAttention(NamedTuple):
    """The method of the module that is replaced while it runs, by what, and the attribute with the width of keys."""

    method: str
    attend: Callable[..., Any]
    key_width: str


def _wavlm(
    attention: WavLMAttention,
    prefix: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    gated_position_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights are those of each head; WavLM's own are their mean, once for each head."""
    batch, tokens, _ = hidden_states.shape
    bias = gated_position_bias.view(batch, attention.num_heads, tokens, tokens)
    if attention_mask is not None:
        bias = bias.masked_fill(attention_mask.ne(1)[:, None, None], float("-inf"))
    query, key, value = (
        _split_heads(projection(hidden_states), attention.num_heads)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    dropout = attention.dropout if attention.training else 0.0
    context, weights = _attend(prefix, query * attention.scaling, key, value, bias, dropout)
    return attention.out_proj(context), weights


def _data2vec_vision(
    attention: Data2VecVisionSelfAttention,
    prefix: torch.Tensor,
    hidden_states: torch.Tensor,
    output_attentions: bool = False,
    relative_position_bias: torch.Tensor | None = None,
    interpolate_pos_encoding: bool = False,
    resolution: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, ...]:
    query, key, value = (
        _split_heads(projection(hidden_states), attention.num_attention_heads)
        for projection in (attention.query, attention.key, attention.value)
    )
    bias = relative_position_bias
    if attention.has_relative_position_bias:
        patches = tuple(side // attention.config.patch_size for side in resolution or ())
        bias_of_layer = attention.relative_position_bias(
            patches, interpolate_pos_encoding, dim_size=hidden_states.shape[1]
        )
        bias = bias_of_layer if bias is None else bias_of_layer + bias
    scaling = attention.attention_head_size**-0.5
    context, weights = _attend(prefix, query * scaling, key, value, bias, _dropout(attention))
    return (context, weights) if output_attentions else (context,)


def _mpnet(
    attention: MPNetSelfAttention,
    prefix: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    output_attentions: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, ...]:
    query, key, value = (
        _split_heads(projection(hidden_states), attention.num_attention_heads)
        for projection in (attention.q, attention.k, attention.v)
    )
    bias = position_bias
    if attention_mask is not None:
        bias = attention_mask if bias is None else bias + attention_mask
    scaling = attention.attention_head_size**-0.5
    context, weights = _attend(prefix, query * scaling, key, value, bias, _dropout(attention))
    return (attention.o(context), weights) if output_attentions else (attention.o(context),)


def _swinv2(
    attention: Swinv2SelfAttention,
    prefix: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Scores are cosines (Liu et al. 2021, arXiv:2111.09883, section 3.2), those of the prefix's keys, too."""
    windows, tokens, _ = hidden_states.shape
    query, key, value = (
        _split_heads(projection(hidden_states), attention.num_attention_heads)
        for projection in (attention.query, attention.key, attention.value)
    )
    prefix_keys = F.normalize(prefix[0].unflatten(-1, (attention.num_attention_heads, -1)), dim=-1).flatten(1)
    of_distances = attention.continuous_position_bias_mlp(attention.relative_coords_table).flatten(0, -2)
    bias = 16 * of_distances[attention.relative_position_index.view(tokens, tokens)].sigmoid().permute(2, 0, 1)[None]
    if attention_mask is not None:  # (windows of an image, tokens, tokens)
        bias = bias + attention_mask.repeat(windows // len(attention_mask), 1, 1)[:, None]
    query = F.normalize(query, dim=-1) * attention.logit_scale.clamp(max=math.log(100)).exp()
    context, weights = _attend(
        torch.stack([prefix_keys, prefix[1]]), query, F.normalize(key, dim=-1), value, bias, _dropout(attention)
    )
    return (context, weights) if output_attentions else (context,)


def _deberta(
    attention: DebertaSelfAttention,
    prefix: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See `_deberta_v2`.

    Raises:
        InputError: where heads are mixed (`talking_head`): a prefix is one of each head.
    """
    if attention.talking_head:
        raise InputError("A prefix cannot be joined to DeBERTa with talking_head; take a checkpoint without it.")
    projected = _split_heads(attention.in_proj(hidden_states), attention.num_attention_heads)
    query, key, value = projected.chunk(3, dim=-1)
    query = query + _split_heads(attention.q_bias[None, None], attention.num_attention_heads)
    value = value + _split_heads(attention.v_bias[None, None], attention.num_attention_heads)
    num_scores = 1 + len(attention.pos_att_type)
    query = query * (attention.attention_head_size * num_scores) ** -0.5
    bias = query.new_zeros(*query.shape[:3], key.shape[2])
    if attention.relative_attention:
        bias = bias + attention.disentangled_att_bias(
            query, key, relative_pos, attention.pos_dropout(rel_embeddings), num_scores
        )
    bias = bias.masked_fill(~attention_mask.bool(), torch.finfo(bias.dtype).min)
    context, weights = _attend(prefix, query, key, value, bias, _dropout(attention))
    return context, weights if output_attentions else None


def _deberta_v2(
    attention: DebertaV2SelfAttention,
    prefix: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: torch.Tensor | None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Content to content, content to position and position to content share the scale sqrt(3 d) (He et al. 2020,
    arXiv:2006.03654, section 3.1). A prefix has contents and no positions: only the first reaches it.
    """
    heads = attention.num_attention_heads
    query, key, value = (
        _split_heads(states, heads)
        for states in (
            attention.query_proj(hidden_states if query_states is None else query_states),
            attention.key_proj(hidden_states),
            attention.value_proj(hidden_states),
        )
    )
    num_scores = 1 + sum(kind in attention.pos_att_type for kind in ("c2p", "p2c"))
    bias = query.new_zeros(*query.shape[:3], key.shape[2])
    if attention.relative_attention:
        of_positions = attention.disentangled_attention_bias(
            query.flatten(0, 1), key.flatten(0, 1), relative_pos, attention.pos_dropout(rel_embeddings), num_scores
        )
        bias = bias + of_positions.view(bias.shape)
    bias = bias.masked_fill(~attention_mask.bool(), torch.finfo(bias.dtype).min)
    scaling = (attention.attention_head_size * num_scores) ** -0.5
    context, weights = _attend(prefix, query * scaling, key, value, bias, _dropout(attention))
    return context, weights if output_attentions else None


def _attend(
    prefix: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The context `(batch, tokens, heads * head_dim)` and the weights `(batch, heads, tokens, num_tokens + tokens)`.

    `query`, already scaled, `key` and `value` have the shape `(batch, heads, tokens, head_dim)`.
    """
    keys, values = (join(part, states) for part, states in zip(prefix, (key, value), strict=True))
    scores = query @ keys.transpose(-1, -2)
    if bias is not None:
        scores = scores + open_to_prefix(bias, prefix.shape[1])
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return (weights @ values).transpose(1, 2).flatten(2), weights


def _split_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _dropout(
    attention: Data2VecVisionSelfAttention
    | DebertaSelfAttention
    | DebertaV2SelfAttention
    | MPNetSelfAttention
    | Swinv2SelfAttention,
) -> float:
    return attention.dropout.p if attention.training else 0.0


OWN_ATTENTION: dict[type[nn.Module], OwnAttention] = {
    Data2VecVisionSelfAttention: OwnAttention("forward", _data2vec_vision, "all_head_size"),
    Data2VecVisionSdpaSelfAttention: OwnAttention("forward", _data2vec_vision, "all_head_size"),
    DebertaSelfAttention: OwnAttention("forward", _deberta, "all_head_size"),
    DebertaV2SelfAttention: OwnAttention("forward", _deberta_v2, "all_head_size"),
    MPNetSelfAttention: OwnAttention("forward", _mpnet, "all_head_size"),
    Swinv2SelfAttention: OwnAttention("forward", _swinv2, "all_head_size"),
    WavLMAttention: OwnAttention("torch_multi_head_self_attention", _wavlm, "embed_dim"),
}

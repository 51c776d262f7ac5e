"""What the self-attention of each layer is computed from, whatever the architecture.

Transformers' encoders call their attention by its name in `AttentionInterface`: under a name of ours it is the stock
one, and keeps the queries, keys and values that it was given.
"""

# B rows, A heads, T positions, d dimensions of a head

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_ssl.errors import InputError

NAME = "recorded_sdpa"


@dataclass(frozen=True)
class Attention:
    """The inputs of one layer's self-attention.

    Args:
        query, key, value (`Tensor` of shape `(B, A, T, d)`): rotary positions, where there are any, are in them.
        scaling (`float`): of the dot products, 1/√d as a rule.
        bias (`Tensor` that broadcasts to `(B, A, T, T)`, *optional*): what is added to the scores besides: positions
            relative to each other; the lowest number where a query does not see a key (beyond a window, or padding).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    bias: Tensor | None = None

    def scores(self) -> Tensor:
        """(B, A, T, T): QKᵀ/√d and the bias, in fp32; what the softmax makes the attention distributions of."""
        scores = dot_products(self.query, self.key) * self.scaling
        # Finite, where a key is not seen, so that differences and products with a probability of 0 are.
        return scores if self.bias is None else (scores + self.bias).clamp(min=torch.finfo(torch.float32).min)


def dot_products(queries: Tensor, keys: Tensor) -> Tensor:
    """(…, T, d) each to (…, T, T), in fp32 also under autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ keys.float().mT


_RECORDS: ContextVar[list[Attention] | None] = ContextVar("recorded attention", default=None)


def _recorded_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    records = _RECORDS.get()
    if records is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        # Some families give the relative positions by themselves, others as part of the mask.
        bias = _as_bias(attention_mask)
        if kwargs.get("position_bias") is not None:
            bias = kwargs["position_bias"] if bias is None else bias + kwargs["position_bias"]
        records.append(Attention(query, key, value, scaling, bias))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)


def _as_bias(mask: Tensor | None) -> Tensor | None:
    """An attention mask as it is added to the scores; a boolean one says where a query sees a key."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)


AttentionInterface.register(NAME, _recorded_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)


def record_attention(encoder: PreTrainedModel) -> None:
    """Make an encoder's attention one that [`recorded`] can record; it computes what it did before.

    Raises:
        InputError: for a family that computes its attention by itself, or in windows or stages.
    """
    model_type = encoder.config.model_type
    if not encoder._can_set_attn_implementation() or "depths" in encoder.config.to_dict():
        raise InputError(
            f"The attention of a {model_type!r} encoder cannot be read, since it is not computed by transformers' "
            "attention interface over the whole sequence; leave out the losses of attention and relations."
        )
    encoder.set_attn_implementation(NAME)


@contextmanager
def recorded() -> Iterator[list[Attention]]:
    """A list to which the attentions of encoders that [`record_attention`] has changed are appended, layer by layer,
    while the context lasts.
    """
    records: list[Attention] = []
    token = _RECORDS.set(records)
    try:
        yield records
    finally:
        _RECORDS.reset(token)

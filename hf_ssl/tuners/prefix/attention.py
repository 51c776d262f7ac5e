"""The attention of a prefix: keys and values of its own before those of the tokens.

An attention module of transformers fetches its attention function by the name in its config. While a module with a
prefix runs, its config has the name of `prefix_attention`, which joins the prefix and then calls the function that the
model had. Only the module's view of the config changes, and only while it runs: the config object that the whole model
shares, the masks made by it, and other models are never touched.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from hf_ssl.errors import InputError
from hf_ssl.tuners.prefix.joining import join, open_to_prefix
from hf_ssl.tuners.prefix.own_attention import OWN_ATTENTION

PREFIX_ATTENTION = "encoder_prefix"


class PrefixedConfig:
    """The config of an attention module, but with the attention that joins the prefix, and with the prefix."""

    _attn_implementation = PREFIX_ATTENTION

    def __init__(self, config: PreTrainedConfig, prefix: torch.Tensor):
        self.config = config
        self.prefix = prefix
        self.was_joined = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)


def takes_prefix(module: nn.Module) -> bool:
    """Whether the module is an attention that a prefix can be joined to."""
    return type(module) in OWN_ATTENTION or "ALL_ATTENTION_FUNCTIONS" in _forward(module).__code__.co_names


def key_width(attention: nn.Module) -> int:
    """The number of features of a token's key, all heads together.

    No name of a projection is common to all families, but none is narrower than that of the keys: those of queries,
    values and outputs are as wide or (with grouped queries) wider, and one for all three is three times as wide.
    """
    if type(attention) in OWN_ATTENTION:
        return getattr(attention, OWN_ATTENTION[type(attention)].key_width)
    return min(
        projection.nf if isinstance(projection, Conv1D) else projection.out_features
        for projection in attention.children()
        if isinstance(projection, (nn.Linear, Conv1D))
    )


def attend_with_prefix(attention: nn.Module, prefix: torch.Tensor, *inputs: Any, **named_inputs: Any) -> Any:
    """Run an attention module with a prefix.

    Args:
        attention (`nn.Module`): one that `takes_prefix`.
        prefix (`torch.Tensor` of shape `(2, num_tokens, key_width)`): keys and values.
        *inputs: of the attention.
        **named_inputs: of the attention.

    Returns:
        What the attention returns.

    Raises:
        InputError: where the attention of the model is neither `sdpa` nor `eager`.
    """
    if type(attention) in OWN_ATTENTION:
        own = OWN_ATTENTION[type(attention)]
        with _replaced(attention, own.method, partial(own.attend, attention, prefix)):
            return attention(*inputs, **named_inputs)
    config = PrefixedConfig(cast(PreTrainedConfig, attention.config), prefix)
    with _replaced(attention, "config", config):
        output = attention(*inputs, **named_inputs)
    if not config.was_joined:
        raise InputError(
            f"{type(attention).__name__} ran without its prefix, since it did not ask for the attention function of "
            "its config; take another method of fine-tuning for this model."
        )
    return output


def prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An attention function as transformers has them: that of the model, over the prefix and the tokens.

    Args:
        module (`nn.Module`): the attention module, whose config is a `PrefixedConfig`.
        query (`torch.Tensor` of shape `(batch, heads, queries, head_dim)`): of the tokens.
        key (`torch.Tensor` of shape `(batch, key_heads, tokens, head_dim)`): of the tokens.
        value (`torch.Tensor` of the same shape): of the tokens.
        attention_mask (`torch.Tensor` of shape `(batch or 1, heads or 1, queries, tokens)`, *optional*): boolean, or
            what is added to the scores, such as a bias of relative positions.
        position_bias (`torch.Tensor` of the same shape, *optional*): added to the scores, too.
        **options: of the attention function of the model, such as `scaling` and `dropout`.

    Returns:
        The context, of shape `(batch, queries, heads, head_dim)`, and in eager attention the weights, over the prefix
        and then the tokens.
    """
    config = cast(PrefixedConfig, module.config)
    prefix, attend = config.prefix, attention_function(module, config.config)
    config.was_joined = True
    # Without a mask, sdpa keeps queries from what comes after them only where there are as many keys as queries.
    if attend is ALL_ATTENTION_FUNCTIONS["sdpa"] and attention_mask is None and _is_causal(module, options):
        attention_mask = _causal_mask(query, key)
    if attention_mask is not None:
        attention_mask = open_to_prefix(attention_mask, prefix.shape[1])
    if position_bias is not None:
        options["position_bias"] = open_to_prefix(position_bias, prefix.shape[1])
    return attend(module, query, join(prefix[0], key), join(prefix[1], value), attention_mask, **options)


AttentionInterface.register(PREFIX_ATTENTION, prefix_attention)


def attention_function(module: nn.Module, config: PreTrainedConfig) -> Callable[..., Any]:
    """The attention function that the module has without a prefix.

    Raises:
        InputError: where it is neither `sdpa` nor `eager`: flash and flex attention pack or skip tokens by masks of
            their own, in which keys without a token have no place.
    """
    implementation = config._attn_implementation
    if implementation == "eager":
        return _forward(module).__globals__["eager_attention_forward"]
    if implementation != "sdpa":
        raise InputError(
            f"A prefix cannot be joined to {implementation} attention; load the model with "
            "attn_implementation='sdpa' or 'eager'."
        )
    return ALL_ATTENTION_FUNCTIONS["sdpa"]


@contextmanager
def _replaced(module: nn.Module, name: str, substitute: object) -> Iterator[None]:
    """Another attribute or method for the instance alone, and for this while alone."""
    own = {name: vars(module)[name]} if name in vars(module) else {}
    setattr(module, name, substitute)
    try:
        yield
    finally:
        vars(module).pop(name)
        vars(module).update(own)


def _is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    """By transformers' convention: what is asked for, else what the module is, and causal if it does not say."""
    asked = options.get("is_causal")
    return getattr(module, "is_causal", True) if asked is None else asked


def _causal_mask(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    queries, tokens = query.shape[2], key.shape[2]
    mask = torch.ones(queries, tokens, dtype=torch.bool, device=query.device)
    return mask.tril(tokens - queries)[None, None]


def _forward(module: nn.Module) -> Any:
    return inspect.unwrap(type(module).forward)

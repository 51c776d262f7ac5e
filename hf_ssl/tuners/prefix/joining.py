"""A prefix joined to the keys, the values and the masks of the tokens."""

import torch
from torch.nn import functional as F


def join(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The prefix before the states of the tokens, in the dtype of these.

    Args:
        prefix (`torch.Tensor` of shape `(num_tokens, heads * head_dim)`): its keys, or its values.
        states (`torch.Tensor` of shape `(batch, heads, tokens, head_dim)`): those of the tokens.

    Returns:
        `torch.Tensor` of shape `(batch, heads, num_tokens + tokens, head_dim)`.
    """
    batch, heads, _, head_dim = states.shape
    prefix = prefix.to(states.dtype).view(-1, heads, head_dim).transpose(0, 1)
    return torch.cat([prefix.expand(batch, -1, -1, -1), states], dim=2)


def open_to_prefix(mask: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """A mask, or what is added to the scores, with columns for the prefix before those of the tokens.

    The prefix is seen by every query (`True` in a boolean mask), and nothing is added to its scores.

    Args:
        mask (`torch.Tensor` of shape `(..., queries, tokens)`): of the tokens alone.
        num_tokens (`int`): the length of the prefix.
    """
    return F.pad(mask, (num_tokens, 0), value=mask.dtype == torch.bool)

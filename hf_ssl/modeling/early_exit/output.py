"""What a model with exits returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class EarlyExitOutput(ModelOutput):
    """The output of a model with exits.

    A pass is at full depth in training, with labels, and with the policy `"never"`; else rows leave at exits.

    Args:
        loss (scalar `Tensor`, *optional*): Σ w_i L_i / Σ w_i over exits, with labels.
        logits (`Tensor` of shape `(B, C)` or `(B, T, C)`): of the exit that the row has left at, or of the last one.
        exit_logits (`tuple[Tensor, ...]`, *optional*): of every exit, from first to last; at full depth only.
        exit_errors (`tuple[Tensor, ...]`, *optional*): the predicted wrongness of every exit, (B,) in [0, 1]; at full
            depth, of a model that has learned to exit.
        exit_layer (`Tensor` of shape `(B,)`): the layer after which the row has left, counted from 1.
        hidden_states (`tuple[Tensor, ...]`, *optional*): the encoder's, with `output_hidden_states=True`.
        attentions (`tuple[Tensor, ...]`, *optional*): the encoder's, with `output_attentions=True`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exit_logits: tuple[Tensor, ...] | None = None
    exit_errors: tuple[Tensor, ...] | None = None
    exit_layer: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

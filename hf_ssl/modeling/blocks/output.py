"""What every objective's `forward` returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class SSLOutput(ModelOutput):
    """The output of a self-supervised objective.

    Args:
        loss (scalar `Tensor`, *optional*): what is minimised.
        loss_terms (`dict[str, Tensor]`, *optional*): the detached, unweighted terms of the loss under the paper's
            names, each divided as the loss divides it.
        num_predictions (`dict[str, Tensor]`, *optional*): how many predictions of this batch each term sums over;
            empty for a loss that is defined over a batch of samples.
        logits (`Tensor` of shape `(N, V)`, *optional*): the scores of this batch's predictions, where the objective is
            a classification.
        targets (`Tensor` of shape `(N,)`, *optional*): the class that each row of `logits` should choose; −100 where a
            row is no prediction but fills a rectangle.
        diagnostics (`dict[str, Tensor]`, *optional*): detached scalars of the objective's own that tell a collapse,
            such as `codebook_perplexity`; they are logged and can be given bounds (`training.stop_below`).
        features (`Tensor` of shape `(M, D)`, *optional*): detached representations of this batch, for the collapse
            diagnostics.
        hidden_states (`tuple[Tensor, ...]`, *optional*): the encoder's, with `output_hidden_states=True`.
        attentions (`tuple[Tensor, ...]`, *optional*): the encoder's, with `output_attentions=True`.
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    num_predictions: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None
    diagnostics: dict[str, Tensor] | None = None
    features: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

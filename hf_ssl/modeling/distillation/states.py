"""What the losses compare: the states of student and teacher on the same batch."""

# B rows, T positions, D hidden size, N real positions of the batch, V vocabulary

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.modeling.distillation.positions import Batch
from hf_ssl.modeling.distillation.recorded_attention import Attention, recorded


@dataclass(frozen=True)
class States:
    """One encoder's view of a batch.

    Args:
        last (`Tensor` of shape `(B, T, D)`): its output.
        hidden (`tuple[Tensor, ...]`, each `(B, T, D)`): the embeddings, then each layer's output.
        attention (`list[Attention]`): of each layer; empty where no loss reads it.
        logits (`Tensor` of shape `(N, V)`, *optional*): the vocabulary's scores at the real positions, row after row.
    """

    last: Tensor
    hidden: tuple[Tensor, ...]
    attention: list[Attention]
    logits: Tensor | None = None


def read(encoder: PreTrainedModel, head: nn.Module | None, inputs: Batch) -> States:
    """Run an encoder.

    Args:
        encoder (`PreTrainedModel`): if the losses read attention, one that [`record_attention`] has changed.
        head (`nn.Module`, *optional*): from hidden states (N, D) to scores (N, V); for texts.
        inputs (`dict[str, Tensor]`): what the encoder takes.
    """
    with recorded() as attention:
        encoded = encoder(**inputs, output_hidden_states=True)
    last = as_sequence(encoded.last_hidden_state)
    logits = None
    if head is not None:
        mask = inputs.get("attention_mask")
        logits = head(last.flatten(0, 1) if mask is None else last[mask.bool()])
    return States(last, tuple(as_sequence(state) for state in encoded.hidden_states), attention, logits)


def as_sequence(state: Tensor) -> Tensor:
    """A feature map (B, D, H, W) as the sequence (B, HW, D) of its positions; a sequence as it is."""
    return state.flatten(2).mT if state.dim() == 4 else state

"""What a named loss of the distillation is."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.distillation.positions import Positions
from hf_ssl.modeling.distillation.states import States

if TYPE_CHECKING:
    from hf_ssl.modeling.distillation.config import DistillationConfig


class Term(nn.Module):
    """One named loss: a sum over positions, with the layers that it learns and that are dropped after.

    `reads_layers`, `reads_attention` and `reads_logits` say what of [`States`] it needs beyond the last one.

    Args:
        config ([`DistillationConfig`]): of the distillation.
    """

    reads_layers: ClassVar[bool] = False
    reads_attention: ClassVar[bool] = False
    reads_logits: ClassVar[bool] = False

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__()

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Refuse a student and a teacher that this loss cannot compare.

        Raises:
            InputError: with the reason.
        """

    def count(self, positions: Positions, labels: Tensor | None) -> Tensor:
        """Over how much the sum is a mean, a scalar; known before the encoders have run."""
        return positions.count()

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """The sum, a scalar.

        Args:
            student ([`States`]): with gradient.
            teacher ([`States`]): without.
            positions ([`Positions`]): of the batch.
            labels (`Tensor` of shape `(B, T)`, *optional*): the hidden tokens, −100 elsewhere.
        """
        raise NotImplementedError


def over_positions(values: Tensor, positions: Positions) -> Tensor:
    """Σ_b Σ_i w_bi ℓ_bi of losses (B, T)."""
    return (positions.weights(values.shape[1]).to(values.device) * values).sum()


def check_layer(name: str, layer: int, num_layers: int) -> None:
    """Refuse a layer, counted from 1, that the teacher does not have.

    Raises:
        InputError: which names the field.
    """
    if not 1 <= layer <= num_layers:
        raise InputError(
            f"{name} names layer {layer}, but the teacher has layers 1 to {num_layers}; give one of them."
        )


def check_equal_heads(loss: str, config: "DistillationConfig") -> None:
    """Refuse students with another number of attention heads than the teacher's.

    Raises:
        InputError: with both numbers.
    """
    ours, theirs = config.encoder_config.num_attention_heads, config.teacher_encoder_config.num_attention_heads  # type: ignore[union-attr]
    if ours != theirs:
        raise InputError(
            f"The loss {loss} compares head with head, but the student has {ours} attention heads and the teacher "
            f"{theirs}; give the student as many, or take relations, which splits the heads anew."
        )

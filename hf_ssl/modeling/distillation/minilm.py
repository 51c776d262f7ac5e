"""The losses of MiniLM (Wang et al. 2020, https://arxiv.org/abs/2002.10957, section 3) and MiniLMv2 (Wang et al. 2021,
https://arxiv.org/abs/2012.15828, section 3): how positions relate to each other in one layer's self-attention.
"""

# B rows, A heads, T positions, d dimensions of a head, R relation heads

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.distillation.positions import Positions
from hf_ssl.modeling.distillation.recorded_attention import dot_products
from hf_ssl.modeling.distillation.states import States
from hf_ssl.modeling.distillation.term import Term, check_equal_heads, check_layer, over_positions

if TYPE_CHECKING:
    from hf_ssl.modeling.distillation.config import DistillationConfig


class SelfAttentionTerm(Term):
    """A loss of the student's last layer and one of the teacher's, by default its last (v2: an upper one)."""

    reads_layers = reads_attention = True

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        assert config.attention_layer is not None
        self.teacher_index = config.attention_layer - 1

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """The layer must be the teacher's."""
        assert config.attention_layer is not None
        num_layers = config.teacher_encoder_config.num_hidden_layers
        check_layer("model.attention_layer", config.attention_layer, num_layers)


class AttentionDistribution(SelfAttentionTerm):
    """`L_AT = 1/A Σ_a Σ_t KL(A_at^T ‖ A_at^S)` (Eq. 6), with the rows of `A = softmax(QKᵀ/√d)`.

    A mean over all positions of the batch, where the paper averages within each sequence first.
    """

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Head is compared with head."""
        super().check(config)
        check_equal_heads("attention", config)

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        ours, theirs = student.attention[-1].scores(), teacher.attention[self.teacher_index].scores()
        return over_positions(divergence(theirs, ours, positions), positions)


class ValueRelation(SelfAttentionTerm):
    """`L_VR = 1/A Σ_a Σ_t KL(VR_at^T ‖ VR_at^S)` (Eq. 7–9), with `VR = softmax(VVᵀ/√d)` of each head's values."""

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Head is compared with head."""
        super().check(config)
        check_equal_heads("value_relation", config)

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        ours, theirs = student.attention[-1].value, teacher.attention[self.teacher_index].value
        return over_positions(divergence(relation(theirs), relation(ours), positions), positions)


class Relations(SelfAttentionTerm):
    """`L = 1/3 Σ_{X ∈ Q, K, V} 1/R Σ_r Σ_t KL(X_rt^T ‖ X_rt^S)`, `X_r = softmax(X_r X_rᵀ/√d_r)` (v2, Eq. 5–8).

    Queries, keys and values of all heads are laid side by side and split into R relation heads anew, so that student
    and teacher may have different numbers of heads.
    """

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        assert config.num_relation_heads is not None
        self.num_relation_heads = config.num_relation_heads

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Both hidden sizes must divide by the number of relation heads."""
        super().check(config)
        assert config.num_relation_heads is not None
        for who, encoder in (("student", config.encoder_config), ("teacher", config.teacher_encoder_config)):
            assert isinstance(encoder, PreTrainedConfig)
            if config.num_relation_heads < 1 or encoder.hidden_size % config.num_relation_heads:
                raise InputError(
                    f"model.num_relation_heads is {config.num_relation_heads}, by which the {who}'s hidden_size "
                    f"{encoder.hidden_size} does not divide; give a number that divides both."
                )

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        ours, theirs = student.attention[-1], teacher.attention[self.teacher_index]
        losses = []
        for name in ("query", "key", "value"):
            left, right = (
                relation(split_anew(getattr(side, name), self.num_relation_heads)) for side in (theirs, ours)
            )
            losses.append(over_positions(divergence(left, right, positions), positions))
        return torch.stack(losses).mean()


def split_anew(vectors: Tensor, num_heads: int) -> Tensor:
    """(B, A, T, d) to (B, R, T, Ad/R): the heads side by side, split into R."""
    return vectors.transpose(1, 2).flatten(2).unflatten(2, (num_heads, -1)).transpose(1, 2)


def relation(vectors: Tensor) -> Tensor:
    """(B, A, T, d) to the scores (B, A, T, T): XXᵀ/√d, before the softmax."""
    return dot_products(vectors, vectors) / vectors.shape[-1] ** 0.5


def divergence(teacher: Tensor, student: Tensor, positions: Positions) -> Tensor:
    """KL(teacher ‖ student) of the rows of two scores, each over the real positions, averaged over heads.

    Args:
        teacher (`Tensor` of shape `(B, A, T, T)`): scores before the softmax.
        student (`Tensor` of shape `(B, A, T, T)`): likewise.
        positions ([`Positions`]): padding is no key.

    Returns:
        `Tensor` of shape `(B, T)`: at padded queries something finite, which is not to be counted.
    """
    keys = positions.weights(teacher.shape[-1]).bool().to(teacher.device)[:, None, None]  # (B, 1, 1, T)
    lowest = torch.finfo(teacher.dtype).min
    theirs, ours = (scores.masked_fill(~keys, lowest).log_softmax(dim=-1) for scores in (teacher, student))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1).mean(dim=1)

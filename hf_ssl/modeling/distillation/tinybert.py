"""The losses of TinyBERT: Jiao et al. 2020, https://arxiv.org/abs/1909.10351, section 3.1.

Layer m of the student learns from layer g(m) of the teacher, by default g(m) = m · N/M.
"""

# B rows, A heads, T positions, D hidden size of the student, D' of the teacher

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_ssl.modeling.distillation.positions import Positions
from hf_ssl.modeling.distillation.states import States
from hf_ssl.modeling.distillation.term import Term, check_equal_heads, check_layer, over_positions

if TYPE_CHECKING:
    from hf_ssl.modeling.distillation.config import DistillationConfig


class LayerTerm(Term):
    """A loss of every layer of the student."""

    reads_layers = True

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        assert config.layer_map is not None
        self.layer_map = list(enumerate(config.layer_map, start=1))
        """(m, g(m)), counted from 1."""

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Each layer of the student must have one of the teacher's."""
        assert config.layer_map is not None
        for layer in config.layer_map:
            check_layer("model.layer_map", layer, config.teacher_encoder_config.num_hidden_layers)


class HiddenStates(LayerTerm):
    """`L_hidn = Σ_m MSE(H_m^S W_h, H_g(m)^T)` (Eq. 8), with one learned W_h (D, D') for all layers."""

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        self.projection = projection(config)

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        losses = [
            mean_squared_error(self.projection(student.hidden[ours]), teacher.hidden[theirs], positions)
            for ours, theirs in self.layer_map
        ]
        return torch.stack(losses).sum()


class Embeddings(Term):
    """`L_embd = MSE(E^S W_e, E^T)` (Eq. 9), with a learned W_e (D, D'): of what the first layer reads."""

    reads_layers = True

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        self.projection = projection(config)

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        return mean_squared_error(self.projection(student.hidden[0]), teacher.hidden[0], positions)


class AttentionScores(LayerTerm):
    """`L_attn = Σ_m 1/A Σ_a MSE(A_am^S, A_ag(m)^T)` (Eq. 7), of the scores before the softmax.

    The mean is over pairs of real positions: padded ones, which the authors' code counts with a difference of 0, are
    left out.
    """

    reads_attention = True

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Head is compared with head."""
        super().check(config)
        check_equal_heads("attention_scores", config)

    def count(self, positions: Positions, labels: Tensor | None) -> Tensor:
        """Pairs of positions."""
        return positions.count_pairs()

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        losses = []
        for ours, theirs in self.layer_map:
            left, right = student.attention[ours - 1].scores(), teacher.attention[theirs - 1].scores()
            weights = positions.weights(left.shape[-1]).to(left.device)
            pairs = (weights[:, :, None] * weights[:, None])[:, None]  # (B, 1, T, T)
            # Where padding is masked the scores are the lowest number: such differences are taken out, not multiplied.
            squares = (left - right).masked_fill(pairs == 0, 0).square()
            losses.append((pairs * squares).mean(dim=1).sum())
        return torch.stack(losses).sum()


def projection(config: "DistillationConfig") -> nn.Linear:
    """W, from the student's hidden size to the teacher's."""
    ours, theirs = config.encoder_config.hidden_size, config.teacher_encoder_config.hidden_size  # type: ignore[union-attr]
    return nn.Linear(ours, theirs, bias=False)


def mean_squared_error(student: Tensor, teacher: Tensor, positions: Positions) -> Tensor:
    """Squared differences of states (B, T, D), averaged over D and summed over positions."""
    return over_positions((student.float() - teacher.float()).square().mean(dim=-1), positions)

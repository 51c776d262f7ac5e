"""The loss of DistilHuBERT: Chang, Yang, Lee 2022, https://arxiv.org/abs/2110.01900, section 2.2."""

# B rows, T frames, D hidden size

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.distillation.layers import num_layers_of
from hf_ssl.modeling.distillation.positions import Positions
from hf_ssl.modeling.distillation.states import States
from hf_ssl.modeling.distillation.term import Term, check_layer, over_positions

if TYPE_CHECKING:
    from hf_ssl.modeling.distillation.config import DistillationConfig


class PredictionHead(nn.Sequential):
    """From the student's last state to what a layer of the teacher has there: linear, GELU, linear (authors' code)."""

    def __init__(self, hidden_size: int, predicted_size: int) -> None:
        super().__init__(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, predicted_size))


class LayerPrediction(Term):
    """`L = mean_ℓ Σ_t [ ‖h_t^ℓ − ĥ_t^ℓ‖₁ / D − λ log σ(cos(h_t^ℓ, ĥ_t^ℓ)) ]` (Eq. 1).

    h^ℓ is the teacher's state after layer ℓ, ĥ^ℓ what a head of its own predicts of it from the student's last state.
    The heads are dropped after training. The layers' losses are averaged, as in the authors' code.
    """

    reads_layers = True

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        assert config.predicted_layers is not None
        ours, theirs = hidden_size_of(config.encoder_config), hidden_size_of(config.teacher_encoder_config)
        self.cosine_weight = config.cosine_weight
        self.layers = list(config.predicted_layers)
        self.heads = nn.ModuleList(PredictionHead(ours, theirs) for _ in self.layers)

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """The layers must be the teacher's."""
        num_layers = num_layers_of(config.teacher_encoder_config)
        for layer in config.predicted_layers or []:
            check_layer("model.predicted_layers", layer, num_layers)

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        losses = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            target, predicted = teacher.hidden[layer].float(), head(student.last).float()  # (B, T, D)
            distance = (target - predicted).abs().mean(dim=-1)
            likeness = F.logsigmoid(F.cosine_similarity(target, predicted, dim=-1))
            losses.append(over_positions(distance - self.cosine_weight * likeness, positions))
        return torch.stack(losses).mean()

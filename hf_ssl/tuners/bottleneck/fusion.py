"""AdapterFusion: attention over what several trained adapters say (Pfeiffer et al. 2021, arXiv:2005.00247)."""

import torch
from torch import Tensor, nn

from hf_ssl.tuners.bottleneck.bottleneck import Bottleneck
from hf_ssl.tuners.bottleneck.config import BottleneckConfig


class AdapterFusion(nn.Module):
    """Frozen copies of N bottlenecks, and a trained attention over their outputs (section 3.2).

    With h the hidden states that the adapters read and `z_n = adapter_n(h)`, what is added is

        s = softmax_n((Q h + b_Q) · (K z_n + b_K)),   o = Σ_n s_n V z_n

    with no division by √d. V has no bias and begins as the identity (off the diagonal at 1e-6); Q and K begin as
    BERT's projections do, with deviation .02. Hence at first o is nearly the mean of the adapters.

    Args:
        width (`int`): d, of the hidden states.
        config ([`BottleneckConfig`]): of the bottlenecks, with the N names of `fused_adapters`.
    """

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        assert config.fused_adapters is not None
        self.adapters = nn.ModuleList(Bottleneck(width, config) for _ in config.fused_adapters)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.fusion_dropout)
        for projection in (self.query, self.key):
            nn.init.normal_(projection.weight, std=0.02)
            nn.init.zeros_(projection.bias)
        with torch.no_grad():
            self.value.weight.fill_(1e-6).fill_diagonal_(1.0)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., d) to (..., d)."""
        outputs = torch.stack([adapter(hidden_states) for adapter in self.adapters], dim=-2)  # (..., N, d)
        scores = torch.einsum("...d,...nd->...n", self.query(hidden_states), self.key(outputs))
        weights = self.dropout(scores).softmax(dim=-1)  # the dropout is on the scores, as in the authors' code
        return torch.einsum("...n,...nd->...d", weights, self.value(outputs))

    def distance_from_identity(self) -> Tensor:
        """‖I − V‖², which the training of a fusion keeps small. Shape ()."""
        identity = torch.eye(self.value.out_features, device=self.value.weight.device)
        return (identity - self.value.weight).square().sum()

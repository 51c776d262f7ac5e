"""A bottleneck: two projections with a non-linearity between them."""

import math

from torch import Tensor, nn
from transformers.activations import ACT2FN

from hf_ssl.tuners.bottleneck.config import BottleneckConfig


class Bottleneck(nn.Module):
    """What is added to the hidden states: `s · W_up σ(W_down h + b_down) + s · b_up`.

    Biases begin at 0, and so do the outputs, exactly or nearly:

    * houlsby: both matrices from a normal distribution of deviation 1e-3, truncated at two deviations (the authors'
      code; the adapters library takes 1e-2);
    * pfeiffer: both from a normal distribution of deviation .02, as BERT begins;
    * parallel: W_down as `nn.Linear` begins, W_up = 0.

    Args:
        width (`int`): d, of the hidden states; the bottleneck has r = `config.size(width)` units, hence 2dr + r + d
            parameters.
        config ([`BottleneckConfig`]): the variant, the size, σ, s and the dropout.
    """

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.size(width))
        self.activation = ACT2FN[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Linear(config.size(width), width)
        self.scaling = config.scaling
        self._initialise(config.variant)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., d) to (..., d)."""
        return self.scaling * self.up(self.dropout(self.activation(self.down(hidden_states))))

    def _initialise(self, variant: str) -> None:
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)
        if variant == "houlsby":
            for projection in (self.down, self.up):
                nn.init.trunc_normal_(projection.weight, std=1e-3, a=-2e-3, b=2e-3)
        elif variant == "pfeiffer":
            for projection in (self.down, self.up):
                nn.init.normal_(projection.weight, std=0.02)
        else:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)

"""DINO's head: a perceptron, a bottleneck of unit vectors, and the prototypes to which they are compared."""

# N rows, D input size, E bottleneck size, K prototypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows have a length of their own, `w_k = g_k v_k / ‖v_k‖` (Salimans & Kingma
    2016, arXiv:1602.07868).

    A plain function of its parameters, and not a reparametrisation of `nn.Linear`: so it is saved, deep-copied and
    compiled as any other layer.

    Args:
        input_size (`int`): E.
        output_size (`int`): K.
        learn_length (`bool`): whether g is learned, from 1 on; otherwise all rows are unit vectors.
    """

    def __init__(self, input_size: int, output_size: int, *, learn_length: bool) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(output_size, input_size))
        self.length = nn.Parameter(torch.empty(output_size, 1)) if learn_length else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows v from U(−1/√E, 1/√E), as `nn.Linear` has it, g = 1; a model's `_init_weights` has to call it."""
        bound = self.direction.shape[1] ** -0.5
        init.uniform_(self.direction, -bound, bound)
        if self.length is not None:
            init.ones_(self.length)

    @property
    def weight(self) -> Tensor:
        """The rows w (K, E), fp32, by the fused kernel of `torch.nn.utils.parametrizations.weight_norm`.

        With 65,536 rows, writing the steps of `F.normalize` out to memory one by one takes ten times as long backward.
        """
        direction = self.direction.float()
        length = direction.new_ones(len(direction), 1) if self.length is None else self.length.float()
        return torch._weight_norm(direction, length, 0)

    def forward(self, vectors: Tensor) -> Tensor:
        """`(..., E)` to `(..., K)`, in fp32 even under autocast."""
        with torch.autocast(vectors.device.type, enabled=False):
            return F.linear(vectors.float(), self.weight)


class DINOHead(nn.Module):
    """The projection head of DINO (Caron et al. 2021, arXiv:2104.14294, section 3.1 and appendix C).

    Three linear layers with GELU between them, l2 normalisation, and a weight-normalised layer: where the lengths of
    the prototypes are not learned, its outputs are cosines. There is no batch normalisation.

    Args:
        input_size (`int`): D, the encoder's hidden size.
        num_prototypes (`int`): K.
        hidden_size (`int`): of the two hidden layers.
        bottleneck_size (`int`): E.
        norm_last_layer (`bool`): whether the prototypes stay unit vectors, which is the stabler choice.
    """

    def __init__(
        self,
        input_size: int,
        num_prototypes: int,
        *,
        hidden_size: int = 2048,
        bottleneck_size: int = 256,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, bottleneck_size),
        )
        self.last_layer = WeightNormLinear(bottleneck_size, num_prototypes, learn_length=not norm_last_layer)

    @property
    def prototypes(self) -> Tensor:
        """The rows of the last layer: (K, E), fp32."""
        return self.last_layer.weight

    def bottleneck(self, features: Tensor) -> Tensor:
        """What is compared to the prototypes: `(..., D)` to unit vectors `(..., E)`, fp32."""
        return F.normalize(self.mlp(features).float(), dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """`(..., D)` to `(..., K)`, fp32."""
        return self.last_layer(self.bottleneck(features))

"""The perceptron between an encoder and the space in which its outputs are compared."""

# N rows, D dimensions

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from hf_ssl.modeling.blocks.batch_norm import JointBatchNorm1d


class ProjectionHead(nn.Sequential):
    """Linear layers with batch normalisation and ReLU between them: `(N, sizes[0])` to `(N, sizes[-1])`.

    Args:
        sizes (`Sequence[int]`): dimensions of input, hidden layers and output; two of them make a single linear layer.
        batch_norm (`bool`): normalise after each linear layer but the last, over the joint batch of all processes. A
            linear layer that is normalised has no bias of its own.
        last_batch_norm (`str`, *optional*): normalise the output too: `"scale"` with a learned scale and no shift
            (SimCLR), `"plain"` without either (SimSiam, MoCo v3); `None` leaves it as it is.
    """

    def __init__(self, sizes: Sequence[int], *, batch_norm: bool = True, last_batch_norm: str | None = None) -> None:
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes[:-1]):
            layers.append(nn.Linear(size, next_size, bias=not batch_norm))
            layers += [JointBatchNorm1d(next_size)] if batch_norm else []
            layers.append(nn.ReLU())
        layers.append(nn.Linear(sizes[-2], sizes[-1], bias=last_batch_norm is None))
        if last_batch_norm is not None:
            norm = JointBatchNorm1d(sizes[-1], affine=last_batch_norm == "scale")
            norm.register_parameter("bias", None)
            layers.append(norm)
        super().__init__(*layers)

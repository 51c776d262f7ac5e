"""The perceptron between an encoder and the space in which its outputs are compared."""

# N rows, D dimensions, V views

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.batch_norm import JointBatchNorm1d


class ProjectionHead(nn.Sequential):
    """Linear layers with batch normalisation and ReLU between them: `(N, sizes[0])` to `(N, sizes[-1])`.

    Args:
        sizes (`Sequence[int]`): dimensions of input, hidden layers and output; two of them make a single linear layer.
        batch_norm (`bool`): normalise after each linear layer but the last, over the joint batch of all processes. A
            linear layer that is normalised has no bias of its own.
        last_batch_norm (`str`, *optional*): normalise the output too: `"scale"` with a learned scale and no shift
            (SimCLR), `"plain"` without either (SimSiam, MoCo v3); `None` leaves it as it is.
        hidden_bias (`bool`): hidden layers have a bias even though the norm takes it away again (BYOL, VICReg).
        last_bias (`bool`): an output that is not normalised has a bias.

    Raises:
        InputError: for a layer of nothing.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_norm: bool = True,
        last_batch_norm: str | None = None,
        hidden_bias: bool = False,
        last_bias: bool = True,
    ) -> None:
        if min(sizes) < 1:
            raise InputError(f"A head has the sizes {list(sizes)}, from input to output; give at least 1 of each.")
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes[:-1]):
            layers.append(nn.Linear(size, next_size, bias=hidden_bias or not batch_norm))
            layers += [JointBatchNorm1d(next_size)] if batch_norm else []
            layers.append(nn.ReLU())
        layers.append(nn.Linear(sizes[-2], sizes[-1], bias=last_bias and last_batch_norm is None))
        if last_batch_norm is not None:
            norm = JointBatchNorm1d(sizes[-1], affine=last_batch_norm == "scale")
            norm.register_parameter("bias", None)
            layers.append(norm)
        super().__init__(*layers)

    def each_view(self, views: Tensor) -> Tensor:
        """Batch normalisation sees one view at a time, as if each passed by itself; linear layers take all at once.

        With a small batch a wide layer costs what reading its weights costs, forwards and backwards: once and not once
        a view.

        Args:
            views (`Tensor` of shape `(V, N, sizes[0])`): the rows of each view.

        Returns:
            `Tensor` of shape `(V, N, sizes[-1])`.
        """
        for layer in self:
            is_norm = isinstance(layer, JointBatchNorm1d)
            views = torch.stack([layer(rows) for rows in views]) if is_norm else layer(views)
        return views

"""How alike directions are: what BYOL and SimSiam maximise, and what tells that all directions became one."""

# B rows, D dimensions

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """The cosine of each prediction and its target, in fp32 with autocast off.

    Args:
        predictions (`Tensor` of shape `(B, D)`): need not be normalised.
        targets (`Tensor` of shape `(B, D)`): likewise.

    Returns:
        `Tensor` of shape `(B,)`, in [-1, 1].
    """
    with torch.autocast(predictions.device.type, enabled=False):
        return F.cosine_similarity(predictions.float(), targets.float(), dim=1)


@torch.no_grad()
def direction_spread(rows: Tensor) -> Tensor:
    """How evenly directions are spread: 1 where they are as far apart as random ones, 0 where all rows have the same.

    √D times the standard deviation over the rows of each dimension of the normalised rows, averaged over dimensions;
    SimSiam (Chen & He 2020, arXiv:2011.10566, section 4.1) looks at it without the √D.

    Args:
        rows (`Tensor` of shape `(B, D)`): B > 1.

    Returns:
        scalar `Tensor`, fp32, from 0 to hardly above 1.
    """
    return math.sqrt(rows.shape[1]) * F.normalize(rows.float(), dim=1).std(dim=0).mean()

"""How alike directions are: what BYOL and SimSiam maximise, and what tells that all directions became one."""

# B rows, D dimensions

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
def direction_std(rows: Tensor) -> Tensor:
    """Standard deviation over the rows of each dimension of the normalised rows, averaged over the dimensions.

    SimSiam, section 4.1 (Chen & He 2020, arXiv:2011.10566): near 1/√D where directions are spread evenly, 0 where all
    rows have the same one.

    Args:
        rows (`Tensor` of shape `(B, D)`): B > 1.

    Returns:
        scalar `Tensor`, fp32.
    """
    return F.normalize(rows.float(), dim=1).std(dim=0).mean()

"""Taking from patches what would tell their place without looking at what they show: colours and fine detail.

A lens bends the colours differently, the more so the further from its middle: how far red and green lie apart tells
where on the picture a patch was (chromatic aberration).
"""

# B images, P patches of an image, s side of a patch, in pixels

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""

GREEN_MAGENTA = (-1.0, 2.0, -1.0)
"""The axis in the space of colours along which a lens shifts them against each other."""

NOISE_SHARE = 0.01
"""Standard deviation of what replaces a dropped channel, over that of the channel that is left."""


def grayscale(images: Tensor, gray: Tensor) -> Tensor:
    """Grey images where it is asked for.

    Args:
        images (`Tensor` of shape `(B, 3, H, W)`): normalised pixels; one mean and standard deviation of all channels
            makes this the same as a grey image that is normalised.
        gray (boolean `Tensor` of shape `(B,)`): which of them.

    Returns:
        `Tensor` of the same shape.
    """
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    luma = torch.einsum("bchw,c->bhw", images, weights)[:, None]
    return torch.where(gray[:, None, None, None], luma, images)


def project_colours(patches: Tensor) -> Tensor:
    """Colours without their part along the axis from green to magenta: `B = I − aᵀa / (a aᵀ)` with a = (−1, 2, −1).

    Args:
        patches (`Tensor` of shape `(B, P, 3, s, s)`): patches.

    Returns:
        `Tensor` of the same shape.
    """
    axis = torch.tensor(GREEN_MAGENTA, device=patches.device, dtype=patches.dtype)
    projection = torch.eye(3, device=patches.device, dtype=patches.dtype) - torch.outer(axis, axis) / axis.dot(axis)
    return torch.einsum("dc,bpchw->bpdhw", projection, patches)


def drop_colours(patches: Tensor, kept_channels: Tensor, noise: Tensor) -> Tensor:
    """One channel of each patch, with mean 0; the other two are noise of a hundredth of its standard deviation.

    Args:
        patches (`Tensor` of shape `(B, P, 3, s, s)`): patches.
        kept_channels (`Tensor` of shape `(B, P)`): 0, 1 or 2.
        noise (`Tensor` of shape `(B, 3, s, s)`): from N(0, 1); all patches of an image have the same.

    Returns:
        `Tensor` of the same shape as `patches`.
    """
    is_kept = (kept_channels[:, :, None] == torch.arange(3, device=patches.device))[..., None, None]  # (B, P, 3, 1, 1)
    kept = torch.where(is_kept, patches, 0.0).sum(dim=2, keepdim=True)  # (B, P, 1, s, s)
    std, mean = torch.std_mean(kept, dim=(3, 4), correction=0, keepdim=True)
    return torch.where(is_kept, kept - mean, noise[:, None] * (NOISE_SHARE * std))


def pixelate(patches: Tensor, sides: Tensor) -> Tensor:
    """Patches as if they had been taken with fewer pixels: means over blocks.

    Args:
        patches (`Tensor` of shape `(B, P, C, s, s)`): patches.
        sides (`Tensor` of shape `(B, P)`): blocks along a side, at most s; with s the patch stays as it is.

    Returns:
        `Tensor` of the same shape.
    """
    patch_size = patches.shape[-1]
    block = torch.arange(patch_size, device=patches.device) * sides[..., None] // patch_size  # (B, P, s)
    same = (block[..., :, None] == block[..., None, :]).to(patches.dtype)
    means = (same / same.sum(dim=-1, keepdim=True))[:, :, None]  # (B, P, 1, s, s): each row sums to 1
    return means @ patches @ means.mT

"""Colour and blur of a batch of images, each image with its own parameters.

The definitions are torchvision's, whose authors' names the papers' settings use: brightness, contrast and saturation
are blends with black, with the mean of the grey image and with the grey image; hue is a rotation in the HSV hexcone.
They run on fp32 in [0, 1] without rounding to 8 bits in between, and nothing in them waits for the device.
"""

# N images, C = 3 channels, H x W pixels

import torch
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Columns of a jitter's `factors` and `turns`."""

SOLARIZE_THRESHOLD = 128 / 255


def color_jitter(images: Tensor, factors: Tensor, turns: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in an order of each image's own.

    Args:
        images (`Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        factors (`Tensor` of shape `(N, 4)`): of brightness, contrast and saturation, where 1 changes nothing; and the
            hue's rotation as a share of the circle, where 0 changes nothing.
        turns (`Tensor` of shape `(N, 4)`): when each of the four is applied: a permutation of 0, 1, 2, 3 in each row.

    Returns:
        `Tensor` of shape `(N, 3, H, W)`, in [0, 1].
    """
    hue_turn = turns[:, HUE:]
    # Hue is the dear one, so it is computed once, between the blends that come before it and those that come after.
    for turn in (0, 1, 2):
        images = _blend(images, factors[:, :HUE], (turns[:, :HUE] == turn) & (turn < hue_turn))
    images = shift_hue(images, factors[:, HUE])
    for turn in (1, 2, 3):
        images = _blend(images, factors[:, :HUE], (turns[:, :HUE] == turn) & (turn > hue_turn))
    return images


def _blend(images: Tensor, factors: Tensor, active: Tensor) -> Tensor:
    """Apply the one blend that `active` (N, 3) names for each image, or none."""
    factor = torch.where(active, factors, 1.0).prod(dim=1).view(-1, 1, 1, 1)
    gray = luma(images)  # (N, 1, H, W)
    of_contrast, of_saturation = (active[:, op].view(-1, 1, 1, 1) for op in (CONTRAST, SATURATION))
    other = gray * of_saturation + gray.mean(dim=(2, 3), keepdim=True) * of_contrast  # 0 for brightness
    return torch.addcmul(other * (1 - factor), images, factor).clamp_(0, 1)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue, keeping saturation and value of HSV.

    A rotation leaves each pixel's largest and smallest channel value as they are. Where between them a channel is
    depends on the hue h, in sixths of the circle: `|h - 3| - 1` for red, `2 - |h - 2|` for green and `2 - |h - 4|` for
    blue, clamped to [0, 1]. That is the conversion to HSV and back in one pass.

    Args:
        images (`Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        shift (`Tensor` of shape `(N,)`): share of the circle, in [-0.5, 0.5].

    Returns:
        `Tensor` of shape `(N, 3, H, W)`.
    """
    red, green, blue = images.unbind(dim=1)  # (N, H, W) each
    largest, smallest = images.amax(dim=1), images.amin(dim=1)
    chroma = largest - smallest
    not_red, not_green = (largest - red).sign_(), (largest - green).sign_()
    hue_of_green, hue_of_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    hue = torch.lerp(green - blue, torch.lerp(hue_of_green, hue_of_blue, not_green), not_red)
    hue = hue.div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny))  # 0 of a grey, which stays grey whatever its hue
    hue = hue.add_(6 * shift.view(-1, 1, 1))
    hue = hue.sub_((hue / 6).floor_().mul_(6))  # into [0, 6)
    share = torch.stack([(hue - 3).abs_() - 1, 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_()], dim=1).clamp_(0, 1)
    return share.mul_(chroma[:, None]).add_(smallest[:, None])


def luma(images: Tensor) -> Tensor:
    """The grey images (N, 1, H, W): 0.299 R + 0.587 G + 0.114 B."""
    red, green, blue = images.split(1, dim=1)
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def grayscale(images: Tensor, which: Tensor) -> Tensor:
    """Replace the images where `which` (N,) is true by their luma in all channels."""
    return torch.where(which.view(-1, 1, 1, 1), luma(images), images)


def solarize(images: Tensor, which: Tensor) -> Tensor:
    """Invert the values from 128/255 up of the images where `which` (N,) is true."""
    threshold = torch.where(which, SOLARIZE_THRESHOLD, 2.0).view(-1, 1, 1, 1)  # 2: no value reaches it
    return torch.where(images >= threshold, 1 - images, images)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a kernel a tenth of the image wide (made odd), reflecting at the border.

    Args:
        images (`Tensor` of shape `(N, 3, H, W)`): in [0, 1].
        sigma (`Tensor` of shape `(N,)`): standard deviation in pixels; 0 leaves an image as it is.

    Returns:
        `Tensor` of shape `(N, 3, H, W)`.
    """
    radius = blur_radius(images.shape[-1])
    if radius == 0:
        return images
    # A sigma of 1/100 pixel is a kernel of one tap to fp32, so the images that stay as they are need no branch.
    kernel = get_gaussian_kernel1d(2 * radius + 1, sigma.clamp(min=0.01)[:, None])  # (N, 2 * radius + 1)
    return filter2d_separable(images, kernel, kernel, border_type="reflect")


def blur_radius(width: int) -> int:
    """Taps at each side of the middle of the kernel that blurs images of that many pixels."""
    return width // 10 // 2

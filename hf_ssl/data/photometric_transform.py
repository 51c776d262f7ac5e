"""The photometric part of the views: colours, blur and normalisation, of a batch at once."""

# B images, V views, S side of a view, N = B * V

import torch
from torch import Tensor, nn

from hf_ssl.data import photometry, photometry_on_cpu
from hf_ssl.data.augmentation import View

BLUR_SIGMA = (0.1, 2.0)
"""Pixels; the papers' value for images of 224."""

CPU_VALUES_AT_ONCE = 2**18
DEVICE_VALUES_AT_ONCE = 2**26
"""The photometric part goes through a batch in pieces of so many values: on a CPU as many as a core's cache holds, one
image of 224 pixels; elsewhere 256 MiB, of which it needs several."""


def photometric_parameters(views: tuple[View, ...], draws: dict[str, Tensor]) -> Tensor:
    """The parameters that [`PhotometricTransform`] takes, from the draws.

    Returns:
        `Tensor` of shape `(B, V, 11)`: turns (4) and factors (4) of the jitter, grey or not, sigma of the blur in
        pixels or 0, solarized or not; fp32.
    """

    def of_views(values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[None]  # (1, V, ...)

    strengths = of_views([view.jitter for view in views])
    jittered = draws["jitter"] < of_views([view.jitter_probability for view in views])[:, :, None]
    turns = draws["turns"].argsort(dim=-1)
    identity = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    low = (identity - strengths).maximum(torch.tensor([0.0, 0.0, 0.0, -1.0], dtype=torch.float64))
    factors = low + (identity + strengths - low) * draws["factors"]
    factors = torch.where(jittered, factors, identity)
    of_gray, of_blur, of_sigma, of_solarize = draws["others"].unbind(dim=-1)  # (B, V) each
    sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * of_sigma
    sigma = sigma * (of_blur < of_views([view.blur_probability for view in views]))
    gray = of_gray < of_views([view.gray_probability for view in views])
    solarized = of_solarize < of_views([view.solarize_probability for view in views])
    return torch.cat([turns, factors, torch.stack([gray, sigma, solarized], dim=-1)], dim=-1).float()


class PhotometricTransform(nn.Module):
    """From 8-bit crops and their parameters to normalised views: jitter, grey, blur, solarize, normalise.

    Args:
        views (`tuple[View, ...]`): recipes; what none of them does is left out.
        mean (`list[float]`): of each channel, as the encoder's image processor has it.
        std (`list[float]`): likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, views: tuple[View, ...], mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.views = {
            "": [view for view in views if not view.is_local],
            "local_": [view for view in views if view.is_local],
        }
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with normalised views.

        Args:
            batch (`dict[str, Tensor]`): 8-bit `pixel_values` (B, V, 3, S, S), or (B, 3, S, S) of one view, and
                `augmentation` (B, V, 11) from [`photometric_parameters`], which is left out where the views are only
                normalised; of local views, `local_pixel_values` and `local_augmentation` likewise.

        Returns:
            `dict[str, Tensor]`: fp32 views of the same shapes, and what else is in the batch, without its parameters.
        """
        self.to(batch["pixel_values"].device)
        batch = dict(batch)
        for prefix, views in self.views.items():
            if views:
                name, parameters = f"{prefix}pixel_values", batch.pop(f"{prefix}augmentation", None)
                batch[name] = self._transform(batch[name], parameters, views)
        return batch

    def _transform(self, crops: Tensor, parameters: Tensor | None, views: list[View]) -> Tensor:
        """All the crops of one size, in pieces."""
        if parameters is None:
            return self._normalise(crops.float().div_(255))
        images = crops.flatten(0, -4)  # (N, 3, S, S)
        values_at_once = CPU_VALUES_AT_ONCE if crops.device.type == "cpu" else DEVICE_VALUES_AT_ONCE
        images_at_once = max(1, values_at_once // images[0].numel())
        done = torch.empty(images.shape, device=crops.device)
        pieces = zip(
            images.split(images_at_once),
            parameters.flatten(0, 1).split(images_at_once),
            done.split(images_at_once),
            strict=True,
        )
        for piece, piece_parameters, piece_done in pieces:
            piece_done.copy_(self._transform_piece(torch.div(piece, 255, out=piece_done), piece_parameters, views))
        return done.view(crops.shape)

    def _transform_piece(self, images: Tensor, parameters: Tensor, views: list[View]) -> Tensor:
        """Some of the images (N, 3, S, S) in [0, 1], with their parameters (N, 11); may change the images."""
        apply = photometry_on_cpu if images.device.type == "cpu" else photometry
        turns, factors, of_gray, sigma, of_solarize = parameters.split([4, 4, 1, 1, 1], dim=1)
        # bf16 has the 8 bits of the pixels and none to compute with
        with torch.autocast(images.device.type, enabled=False):
            if any(view.jitter_probability for view in views):
                images = apply.color_jitter(images, factors, turns)
            if any(view.gray_probability for view in views):
                images = apply.grayscale(images, of_gray[:, 0] > 0)
            if any(view.blur_probability for view in views):
                images = apply.gaussian_blur(images, sigma[:, 0])
            if any(view.solarize_probability for view in views):
                images = apply.solarize(images, of_solarize[:, 0] > 0)
            return self._normalise(images)

    def _normalise(self, images: Tensor) -> Tensor:
        """In place."""
        return images.sub_(self.mean).div_(self.std)

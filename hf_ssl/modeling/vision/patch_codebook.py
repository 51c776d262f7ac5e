"""An image tokenizer that needs nothing but images: a patch's token is the nearest of a codebook's patches."""

# N images of C x H x W pixels, P patches of p x p pixels, V codes

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.codebook import nearest_codewords
from hf_ssl.modeling.blocks.patches import patchify


@strict
class PatchCodebookConfig(PreTrainedConfig):
    """Configuration of a codebook of patches.

    Args:
        patch_size (`int`): p, side of a patch in pixels.
        num_channels (`int`): C.
        num_embeddings (`int`): V, at least 2.

    Raises:
        InputError: for sizes that are too small.
    """

    model_type = "patch-codebook"

    patch_size: int = 16
    num_channels: int = 3
    num_embeddings: int = 8192

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.patch_size < 1 or self.num_embeddings < 2:
            raise InputError(
                f"patch_size is {self.patch_size} and num_embeddings {self.num_embeddings}; a codebook needs patches "
                "of at least 1 pixel and at least 2 of them."
            )


class PatchCodebook(PreTrainedModel):
    """Tokens of an image: of each patch, the number of the nearest patch (in pixels) of a codebook that k-means found.

    `z_i = argmin_k ‖x_i − e_k‖²`. It has `encode` as the image tokenizers of transformers have it (Chameleon's and
    Janus's VQ-VAE), and nothing to decode but the codebook itself.
    """

    config: PatchCodebookConfig
    main_input_name = "pixel_values"
    base_model_prefix = "patch_codebook"

    def __init__(self, config: PatchCodebookConfig) -> None:
        super().__init__(config)
        self.codebook = nn.Parameter(torch.empty(config.num_embeddings, config.num_channels * config.patch_size**2))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PatchCodebook):
            init.uniform_(module.codebook, -1.0, 1.0)

    @torch.no_grad()
    def encode(self, pixel_values: Tensor) -> Tensor:
        """The tokens of images.

        Args:
            pixel_values (`Tensor` of shape `(N, C, H, W)`): in [-1, 1], H and W multiples of p.

        Returns:
            `Tensor` of shape `(N, P)`, int64, in 0 … V − 1.
        """
        size = self.config.patch_size
        grid = (pixel_values.shape[2] // size, pixel_values.shape[3] // size)
        with torch.autocast(pixel_values.device.type, enabled=False):
            patches = patchify(pixel_values.float(), grid)  # (N, P, p p C)
            nearest = nearest_codewords(patches.flatten(0, 1), self.codebook.float())
        return nearest.view(patches.shape[:2])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See [`encode`]."""
        return self.encode(pixel_values)

"""Jigsaw puzzles: tell in which order the tiles of an image were shown."""

# B images, P = 9 tiles of each, K permutations, S side of an image, s side of a tile, D hidden size, H fc6's outputs

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_degradation import grayscale
from hf_ssl.modeling.blocks.patch_grid import (
    NUM_PATCHES,
    check_patch_sizes,
    cut_patches,
    draw_patch_corners,
    standardise,
)
from hf_ssl.modeling.blocks.permutation_set import permutation_set
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import check_squares, encode_views, ready_image_encoder


@strict
class JigsawConfig(PooledImageConfig):
    """Configuration of jigsaw puzzles; the defaults are the authors', for images of 255 pixels.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any transformers image encoder that can read images
            of `patch_size`; by default ResNet-50.
        pooling (`str`): see [`PooledImageConfig`].
        num_permutations (`int`): K, the number of classes, at least 2.
        permutation_seed (`int`): of the set of permutations.
        patch_size (`int`): s, side of a tile in pixels.
        patch_jitter (`int`): how far a tile may lie from one side of its range to the other, in pixels.
        channel_jitter (`int`): how far a tile's colour channels may lie beside it, in pixels, along each axis.
        gray_probability (`float`): share of the images that lose their colours.
        tile_size (`int`): H, what the shared layer on each tile (fc6) makes of it.
        head_hidden_size (`int`): of the layer that reads all tiles (fc7).
        head_dropout (`float`): share of the outputs of these two layers that are dropped in training.

    Raises:
        InputError: for values out of range.
    """

    model_type = "jigsaw"

    num_permutations: int = 1000
    permutation_seed: int = 0
    patch_size: int = 64
    patch_jitter: int = 21
    channel_jitter: int = 2
    gray_probability: float | int = 0.3
    tile_size: int = 1024
    head_hidden_size: int = 4096
    head_dropout: float | int = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_patch_sizes(self.patch_size, patch_jitter=self.patch_jitter, channel_jitter=self.channel_jitter)
        most = math.factorial(NUM_PATCHES)
        if not 2 <= self.num_permutations <= most:
            raise InputError(
                f"num_permutations is {self.num_permutations}; there are {most} of {NUM_PATCHES} tiles: give from 2 "
                f"to {most}."
            )
        if self.permutation_seed < 0:
            raise InputError(f"permutation_seed is {self.permutation_seed}; give a seed of at least 0.")
        check_shares(self, "gray_probability", "head_dropout")
        for name in ("tile_size", "head_hidden_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def permutations(self) -> Tensor:
        """The set of permutations, (K, 9): the tile at each place. Do not write to it."""
        return permutation_set(self.num_permutations, NUM_PATCHES, self.permutation_seed)


class JigsawForPreTraining(SSLPreTrainedModel):
    """Solving jigsaw puzzles (Noroozi & Favaro 2016, arXiv:1603.09246): a context-free network.

    `L = −mean log p(k | f(x_{π_k(1)}), …, f(x_{π_k(9)}))`: the nine tiles x of an image are shown in the order of the
    k-th permutation π_k of a fixed set, f (encoder and fc6) sees each tile by itself, and the layers after it (fc7,
    fc8) see the nine results side by side. The permutations are far apart ([`permutation_set`]), so that no two of
    them can be told apart by few tiles only.

    Against short cuts the tiles have gaps and jitter, each is standardised, the colour channels are shifted against
    each other, and a part of the images is grey.

    References: MehdiNoroozi/JigsawPuzzleSolver (sizes of tiles and layers, `train_val_cfn_jps.prototxt`); the PyTorch
    code bbrattoli/JigsawPuzzlePytorch. Deviations:

    * The encoder's last layer is pooled before fc6; the authors' AlexNet hands it 3 x 3 positions.
    * VISSL's ResNet-50 has a batch norm after its fc6 and no fc7; here the head is the paper's, without any.
    """

    config: JigsawConfig
    main_input_name = "pixel_values"
    permutations: Tensor

    def __init__(self, config: JigsawConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, "Jigsaw", config.pooling)
        size, hidden, dropout = config.tile_size, config.head_hidden_size, config.head_dropout
        self.fc6 = nn.Sequential(
            nn.Linear(hidden_size_of(config.encoder_config), size), nn.ReLU(), nn.Dropout(dropout)
        )
        self.fc7 = nn.Sequential(nn.Linear(NUM_PATCHES * size, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Linear(hidden, config.num_permutations)
        self.register_buffer("permutations", config.permutations.clone())
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, JigsawForPreTraining):
            init.copy_(module.permutations, module.config.permutations)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        permutation: Tensor,
        patch_corners: Tensor,
        gray: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] makes everything but the images.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): images.
            permutation (`Tensor` of shape `(B,)`): the number of each image's permutation, 0 … K − 1.
            patch_corners (`Tensor` of shape `(B, 9, 3, 2)`): where the tiles lie, see [`draw_patch_corners`].
            gray (boolean `Tensor` of shape `(B,)`, *optional*): the images that lose their colours.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the images of the whole optimiser step
                ([`count_predictions`]); by default those of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["permutation"]`, nats an image; `logits` (B, K) and `targets` (B,); `features`
            (9 B, D), of the tiles.

        Raises:
            InputError: when `pixel_values` is not one square image an item.
        """
        check_squares(pixel_values, "Jigsaw")
        with torch.autocast(pixel_values.device.type, enabled=False):  # bf16 would leave pixels too few bits
            images = pixel_values if gray is None else grayscale(pixel_values, gray)
            order = self.permutations[permutation]  # (B, 9)
            shuffled = patch_corners.gather(1, order[:, :, None, None].expand_as(patch_corners))
            tiles = standardise(cut_patches(images, shuffled, self.config.patch_size))  # (B, 9, 3, s, s)
        encoded = encode_views(self.encoder, tiles, self.config.pooling, **kwargs)
        assert encoded.features is not None  # (B, 9, D)
        logits = self.fc8(self.fc7(self.fc6(encoded.features).flatten(1))).float()  # (B, K)

        num_predictions = self.count_predictions({"permutation": permutation})
        divisors = num_items_in_batch or num_predictions
        loss = F.cross_entropy(logits, permutation, reduction="sum") / divisors["permutation"]
        return SSLOutput(
            loss=loss,
            loss_terms={"permutation": loss.detach()},
            num_predictions=num_predictions,
            logits=logits.detach(),
            targets=permutation,
            features=encoded.features.detach().flatten(0, 1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The images: each is one puzzle."""
        return {"permutation": torch.full((), len(batch["permutation"]), device=batch["permutation"].device)}

    @staticmethod
    def draw_inputs(
        config: JigsawConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws each image's permutation, where its tiles lie and whether it is grey.

        Args:
            config ([`JigsawConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` of B images, of which only the size is looked at.
            generators (`list[torch.Generator]`): one an image.

        Returns:
            `dict[str, Tensor]`: the batch with `permutation`, `patch_corners` and `gray`.

        Raises:
            InputError: when the tiles do not fit into the image.
        """
        permutations = [torch.randint(config.num_permutations, (), generator=generator) for generator in generators]
        draws = torch.stack([torch.rand((), generator=generator) for generator in generators])
        gray = draws < config.gray_probability  # (B,)
        corners = draw_patch_corners(
            batch["pixel_values"].shape[-1],
            patch_size=config.patch_size,
            patch_jitter=config.patch_jitter,
            channel_jitter=config.channel_jitter,
            generators=generators,
        )
        # the channels of a grey image are one and the same, and stay together
        corners = torch.where(gray[:, None, None, None], corners[:, :, :1], corners)
        return {**batch, "permutation": torch.stack(permutations), "gray": gray, "patch_corners": corners}

"""MAE: an encoder that sees a quarter of the patches, and a small decoder that predicts the pixels of the others."""

# B images, P patches of p x p pixels with C channels, K visible, M masked, R prefix tokens, D hidden size, E decoder's

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, ViTConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.models.vit.modeling_vit import ViTLayer
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.image_config import ImageSSLConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_masking import (
    check_visible_patches,
    patch_grid,
    patch_sides,
    ready_patch_encoder,
    visible_patches,
)
from hf_ssl.modeling.blocks.patches import patchify, random_patches, sincos_positions, take_patches
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import check_squares, interpolation

EPSILON = 1e-6
"""Added to the variance of a patch's pixels."""


@strict
class MAEConfig(ImageSSLConfig):
    """Configuration of MAE; the defaults are the paper's for ImageNet.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any ViT-like encoder with absolute or rotary
            positions (`vit`, `vit_mae`, `deit`, `dinov2`, `dinov3_vit`, `ijepa` ...); by default ViT-B/16. A ViT-MAE's
            own masking is switched off.
        mask_ratio (`float`): share of the patches in (0, 1) that are masked; of the visible ones, a fraction is cut.
        norm_pix_loss (`bool`): whether a patch's target has mean 0 and variance 1 over its own pixels.
        decoder_hidden_size (`int`): E, a multiple of 4 and of the number of heads.
        decoder_num_hidden_layers (`int`): blocks of the decoder, at least 1.
        decoder_num_attention_heads (`int`): of the decoder.
        decoder_intermediate_size (`int`): of the decoder's feed-forward layers.
        initializer_range (`float`): standard deviation of the decoder's first weights and of its mask token.

    Raises:
        InputError: for values that do not fit together, or an encoder that cannot see some patches alone.
    """

    model_type = "mae"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}

    mask_ratio: float | int = 0.75
    norm_pix_loss: bool = True
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not 0 < self.mask_ratio < 1:
            raise InputError(f"mask_ratio is {self.mask_ratio}; it is a share between 0 and 1, without the ends.")
        for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"):
            if getattr(self, f"decoder_{name}") < 1:
                raise InputError(f"decoder_{name} is {getattr(self, f'decoder_{name}')}; give at least 1.")
        if self.decoder_hidden_size % 4 or self.decoder_hidden_size % self.decoder_num_attention_heads:
            raise InputError(
                f"decoder_hidden_size is {self.decoder_hidden_size}; it must be a multiple of 4, for the positions, "
                f"and of the {self.decoder_num_attention_heads} heads (decoder_num_attention_heads)."
            )
        assert isinstance(self.encoder_config, PreTrainedConfig)
        check_visible_patches(self.encoder_config)


class MAEDecoder(nn.Module):
    """From the encoder's tokens of the visible patches to the pixels of the masked ones.

    The layers are those of transformers' ViT; the positions are fixed.
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        encoder, size = config.encoder_config, config.decoder_hidden_size
        assert isinstance(encoder, PreTrainedConfig)
        layer_config = ViTConfig(
            hidden_size=size,
            num_attention_heads=config.decoder_num_attention_heads,
            intermediate_size=config.decoder_intermediate_size,
            layer_norm_eps=1e-6,
            attn_implementation=config._attn_implementation,
        )
        pixels_a_patch = encoder.num_channels * math.prod(patch_sides(encoder))
        self.embed = nn.Linear(encoder.hidden_size, size)
        self.mask_token = nn.Parameter(torch.empty(size))
        self.layers = nn.ModuleList(ViTLayer(layer_config) for _ in range(config.decoder_num_hidden_layers))
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.predict = nn.Linear(size, pixels_a_patch)

    def forward(self, hidden: Tensor, grid: tuple[int, int], visible: Tensor, masked: Tensor) -> Tensor:
        """Predictions for the masked patches.

        Args:
            hidden (`Tensor` of shape `(B, R + K, D)`): the encoder's last layer.
            grid (`tuple[int, int]`): rows and columns of patches.
            visible (`Tensor` of shape `(B, K)`): positions of the visible patches.
            masked (`Tensor` of shape `(B, M)`): positions of the others.

        Returns:
            `Tensor` of shape `(B, M, p·p·C)`.
        """
        num_masked = masked.shape[1]
        tokens = self.embed(hidden)  # (B, R + K, E)
        num_prefix = tokens.shape[1] - visible.shape[1]
        positions = sincos_positions(grid, tokens.shape[-1], tokens.device).to(tokens.dtype)  # (P, E)
        seen = tokens[:, num_prefix:] + positions[visible]
        hidden_from_it = self.mask_token.to(tokens.dtype) + positions[masked]  # (B, M, E)
        # Layers do not know an order, only positions: masked patches may stand last. Prefix tokens have none.
        tokens = torch.cat([tokens[:, :num_prefix], seen, hidden_from_it], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.predict(self.norm(tokens[:, -num_masked:]))


class MAEForPreTraining(SSLPreTrainedModel):
    """Masked autoencoders are scalable vision learners (He et al. 2021, arXiv:2111.06377).

    `L = mean_{i ∈ masked} ‖x̂_i − x_i‖² / (p²C)`, `x̂ = g(f(x_visible), mask tokens)` (section 3): f the encoder, which
    sees the visible patches only, g the decoder, x_i the pixels of patch i, normalised by their own mean and standard
    deviation. Downstream one uses f on whole images, and g is dropped.

    Reference: facebookresearch/mae, `models_mae.py`, commit efb2a80; on the same weights, images and visible patches
    the loss is that of transformers' `ViTMAEForPreTraining`. Deviations:

    * The loss is the mean over the masked patches of all processes.
    * The encoder is transformers' own: ViT's learns its positions, where the authors' are fixed (`vit_mae`'s are).
      Weights start from N(0, 0.02²), the authors' from Xavier's uniform distribution.
    * Prefix tokens beside the class token (DeiT, registers) go through the decoder as it does.
    """

    config: MAEConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config)
        ready_patch_encoder(self.encoder, "MAE")
        self.decoder = MAEDecoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MAEDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        visible_positions: Tensor,
        masked_positions: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] draws what is masked.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images, normalised as the encoder expects.
            visible_positions (`Tensor` of shape `(B, K)`): the patches that the encoder sees, numbered row by row.
            masked_positions (`Tensor` of shape `(B, M)`): all the others, which are predicted.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `reconstruction`; `diagnostics` `prediction_std`, the spread of the predictions
            over the patches (0 when all of them look the same); `features` (B, D), the mean of the encoder's output.

        Raises:
            InputError: for images of a wrong shape.
        """
        check_squares(pixel_values, "MAE")
        grid = patch_grid(self.encoder.config, (pixel_values.shape[2], pixel_values.shape[3]))
        with visible_patches(self.encoder, visible_positions):
            encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        hidden = encoded.last_hidden_state  # (B, R + K, D)
        predictions = self.decoder(hidden, grid, visible_positions, masked_positions)  # (B, M, p p C)
        targets = take_patches(self.targets(pixel_values, grid), masked_positions)

        errors = (predictions.float() - targets).square().mean(dim=-1)  # (B, M)
        num_predictions = self.count_predictions({"masked_positions": masked_positions})
        loss = errors.sum() / (num_items_in_batch or num_predictions)["reconstruction"]
        return SSLOutput(
            loss=loss,
            loss_terms={"reconstruction": loss.detach()},
            num_predictions=num_predictions,
            diagnostics={"prediction_std": predictions.detach().float().std(dim=(0, 1), correction=0).mean()},
            features=hidden.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def targets(self, pixel_values: Tensor, grid: tuple[int, int]) -> Tensor:
        """The pixels of each patch (B, P, p·p·C), fp32; normalised by the patch's own statistics, if so configured."""
        pixels = patchify(pixel_values.float(), grid)
        if not self.config.norm_pix_loss:
            return pixels
        variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)  # unbiased
        return (pixels - mean) / (variance + EPSILON).sqrt()

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many patches are masked."""
        return {"reconstruction": (batch["masked_positions"] >= 0).sum()}

    @staticmethod
    def draw_inputs(
        config: MAEConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the patches that the encoder sees, of each image the same number.

        Args:
            config ([`MAEConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, C, H, W).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `visible_positions` (B, K), K = ⌊P (1 − mask_ratio)⌋, and
            `masked_positions` (B, P − K).

        Raises:
            InputError: when not a single patch would be visible.
        """
        check_squares(batch["pixel_values"], "MAE")
        height, width = batch["pixel_values"].shape[-2:]
        assert isinstance(config.encoder_config, PreTrainedConfig)
        rows, columns = patch_grid(config.encoder_config, (height, width))
        num_visible = int(rows * columns * (1 - config.mask_ratio))
        if num_visible == 0:
            raise InputError(
                f"With mask_ratio {config.mask_ratio} none of the {rows * columns} patches of an image is visible; "
                "lower it, or take smaller patches."
            )
        visible, masked = random_patches(rows * columns, num_visible, generators)
        return {**batch, "visible_positions": visible, "masked_positions": masked}

"""SimMIM: hide large squares of an image, and predict their pixels by one linear layer."""

# B images of C x H x W pixels, P patches of p x p pixels, D hidden size, s stride of the last layer in pixels

import math
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.image_config import ImageSSLConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_masking import (
    masked_patches,
    num_prefix_tokens,
    patch_dim,
    patch_sides,
    ready_patch_encoder,
)
from hf_ssl.modeling.blocks.patches import random_patches
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import check_squares, interpolation


@strict
class SimMIMConfig(ImageSSLConfig):
    """Configuration of SimMIM; the defaults are the paper's for ImageNet.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any ViT-like encoder of transformers, or a Swin; by
            default Swin. A ViT-MAE's own masking is switched off.
        mask_patch_size (`int`): side of a square that is masked as one, in pixels; a multiple of the encoder's patch.
        mask_ratio (`float`): share of the squares in (0, 1] that are masked, rounded up.
        initializer_range (`float`): standard deviation of the mask token's and the head's first weights.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "simmim"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="swin")}

    mask_patch_size: int = 32
    mask_ratio: float | int = 0.6
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.mask_patch_size < 1:
            raise InputError(f"mask_patch_size is {self.mask_patch_size}; give the side of a square, at least 1.")
        if not 0 < self.mask_ratio <= 1:
            raise InputError(f"mask_ratio is {self.mask_ratio}; it is a share above 0 and at most 1.")


def stride_of(encoder_config: PreTrainedConfig) -> int:
    """s: side of the square of pixels that one vector of an encoder's last layer stands for; Swin merges patches."""
    fields = encoder_config.to_dict()
    return patch_sides(encoder_config)[0] * 2 ** (len(fields.get("depths", [0])) - 1)


class SimMIMForPreTraining(SSLPreTrainedModel):
    """A simple framework for masked image modelling (Xie et al. 2021, arXiv:2111.09886).

    `L = ‖y_M − x_M‖₁ / Ω(x_M)` (Eq. 1, section 3.4): M the masked pixels of all channels, Ω their number, x the image
    and y its prediction. The encoder sees a learned token in place of each masked patch's embedding; one linear layer
    predicts the s x s pixels that a vector of its last layer stands for.

    Reference: microsoft/SimMIM, `models/simmim.py` and `data/data_simmim.py`, commit d3e29bc; the loss is that of
    transformers' `SwinForMaskedImageModeling` and `ViTForMaskedImageModeling`, without their 1e-5 in the divisor.
    Deviations: Ω counts the masked pixels of all processes; transformers' Swin normalises patch embeddings before the
    token takes their place, as the authors' does; a ViT has absolute positions unless a `beit` with relative ones is
    chosen, as in the paper; the head starts from N(0, 0.02²), the authors' as PyTorch has it.
    """

    config: SimMIMConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SimMIMConfig) -> None:
        super().__init__(config)
        ready_patch_encoder(self.encoder, "SimMIM", hierarchical=True)
        encoder = self.encoder.config
        self.stride = stride_of(encoder)
        self.mask_token = nn.Parameter(torch.empty(patch_dim(encoder)))
        self.head = nn.Linear(encoder.hidden_size, encoder.num_channels * self.stride**2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SimMIMForPreTraining):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] draws what is masked.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images, normalised as the encoder expects.
            bool_masked_pos (boolean `Tensor` of shape `(B, H/p, W/p)`): `True` = masked.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `reconstruction`; `features` (B, D), the mean of the encoder's output.

        Raises:
            InputError: for images of a wrong shape.
        """
        check_squares(pixel_values, "SimMIM")
        with masked_patches(self.encoder, bool_masked_pos.flatten(1), self.mask_token):
            encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        hidden = encoded.last_hidden_state[:, num_prefix_tokens(self.encoder) :]  # (B, (H/s)(W/s), D)
        predictions = self.head(hidden).transpose(1, 2)  # (B, C s s, (H/s)(W/s))
        rows = pixel_values.shape[2] // self.stride
        reconstruction = F.pixel_shuffle(predictions.unflatten(2, (rows, -1)), self.stride)  # (B, C, H, W)

        errors = (reconstruction.float() - pixel_values.float()).abs().mean(dim=1)  # (B, H, W)
        errors = F.avg_pool2d(errors, patch_sides(self.encoder.config))  # (B, H/p, W/p): the mean of each patch
        num_predictions = self.count_predictions({"bool_masked_pos": bool_masked_pos})
        divisors = num_items_in_batch or num_predictions
        loss = (errors * bool_masked_pos).sum() / divisors["reconstruction"]
        return SSLOutput(
            loss=loss,
            loss_terms={"reconstruction": loss.detach()},
            num_predictions=num_predictions,
            features=encoded.last_hidden_state.detach().mean(dim=1),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many patches are masked; each has the same number of pixels."""
        return {"reconstruction": batch["bool_masked_pos"].sum()}

    @staticmethod
    def draw_inputs(
        config: SimMIMConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the squares that are masked.

        Args:
            config ([`SimMIMConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, C, H, W).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `bool_masked_pos` (B, H/p, W/p), boolean.

        Raises:
            InputError: when the images do not divide into squares, or squares into patches.
        """
        check_squares(batch["pixel_values"], "SimMIM")
        assert isinstance(config.encoder_config, PreTrainedConfig)
        side, unit = batch["pixel_values"].shape[-1], config.mask_patch_size
        _check_sides(config.encoder_config, side, unit)
        units = side // unit
        masked, _ = random_patches(units**2, math.ceil(units**2 * config.mask_ratio), generators)
        mask = torch.zeros(len(masked), units**2, dtype=torch.bool).scatter(1, masked, True)
        patches_a_unit = unit // patch_sides(config.encoder_config)[0]
        mask = mask.view(-1, units, units).repeat_interleave(patches_a_unit, 1).repeat_interleave(patches_a_unit, 2)
        return {**batch, "bool_masked_pos": mask}


def _check_sides(encoder_config: PreTrainedConfig, side: int, unit: int) -> None:
    """Refuses images, masked squares and patches whose sides do not divide one another, all in pixels."""
    patch, stride = patch_sides(encoder_config)[0], stride_of(encoder_config)
    if unit % patch or side % unit:
        raise InputError(
            f"mask_patch_size is {unit}; it must be a multiple of the encoder's patch_size, {patch}, and a divisor of "
            f"the images' side, {side}."
        )
    if side % stride:
        raise InputError(
            f"The encoder's last layer has a vector for each {stride} x {stride} pixels, into which images of {side} "
            "pixels do not divide; change data.image_size, or the encoder's depths or patch_size."
        )

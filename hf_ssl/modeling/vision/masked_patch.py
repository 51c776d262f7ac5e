"""Masked patch prediction of the ViT paper: from the other patches, the mean colour of a corrupted one."""

# B images, P patches of p x p pixels, M of them corrupted, D hidden size, V colours

from dataclasses import field
from functools import partial
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
from hf_ssl.modeling.blocks.patch_corruption import corrupt, draw_corruption
from hf_ssl.modeling.blocks.patch_masking import changed_patches, num_prefix_tokens, patch_grid, ready_patch_encoder
from hf_ssl.modeling.blocks.patches import take_patches
from hf_ssl.modeling.blocks.pixels import CHANNELS, check_pixel_scale, colours_of
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import check_squares, interpolation


@strict
class MaskedPatchConfig(ImageSSLConfig):
    """Configuration of masked patch prediction; the defaults are the paper's.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any ViT-like encoder of transformers for images of
            three channels; by default ViT-B/16. A ViT-MAE's own masking is switched off.
        corruption_ratio (`float`): share of the patches in (0, 1] that are corrupted and predicted.
        mask_token_share (`float`): of these, the share that a mask token stands for.
        random_patch_share (`float`): the share that another patch stands for; the rest stay as they are.
        bits_per_channel (`int`): of the mean colour, in 1 … 8: V = 2^(3 bits), 512 colours for 3.
        pixel_mean (`list[float]`): `image_mean` of the image processor, which was subtracted from the channels: with
            it, a normalised pixel tells its colour. The data decide it (`hf-ssl pretrain`).
        pixel_scale (`list[float]`): `image_std`, by which they were then divided.
        initializer_range (`float`): standard deviation of the mask token's and the head's first weights.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "masked-patch"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}

    corruption_ratio: float | int = 0.5
    mask_token_share: float | int = 0.8
    random_patch_share: float | int = 0.1
    bits_per_channel: int = 3
    pixel_mean: list[float] = field(default_factory=lambda: [0.5] * CHANNELS)
    pixel_scale: list[float] = field(default_factory=lambda: [0.5] * CHANNELS)
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not 0 < self.corruption_ratio <= 1:
            raise InputError(f"corruption_ratio is {self.corruption_ratio}; it is a share above 0 and at most 1.")
        shares = (self.mask_token_share, self.random_patch_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise InputError(
                f"mask_token_share is {shares[0]} and random_patch_share {shares[1]}; give two shares whose sum is at "
                "most 1."
            )
        if not 1 <= self.bits_per_channel <= 8:
            raise InputError(f"bits_per_channel is {self.bits_per_channel}; give 1 to 8 (3 are 512 colours).")
        check_pixel_scale(self.pixel_mean, self.pixel_scale)

    @property
    def num_colours(self) -> int:
        """V."""
        return 2 ** (CHANNELS * self.bits_per_channel)


class MaskedPatchForPreTraining(SSLPreTrainedModel):
    """Masked patch prediction (Dosovitskiy et al. 2020, arXiv:2010.11929, appendix B.1.2).

    `L = mean_{i ∈ corrupted} −log p(c_i | x̃)`: c_i the mean colour of patch i with 3 bits a channel, one of 512
    classes, x̃ the patches of which half are corrupted: of these, 80 % have a learned token in place of their
    embedding, 10 % the embedding of another patch, 10 % their own. A linear layer on the encoder's output predicts c_i
    of every corrupted patch, as BERT does of words.

    The authors published no code of it. What the paper leaves open is here: exactly half of each image's patches is
    corrupted, rounded; the three fates are drawn for each of them; another patch is one of the same image; a channel's
    bin is ⌊8 x⌋ of its mean x in [0, 1], the highest for 1; the loss is the mean over the patches of all processes.
    Weights start as transformers has them.
    """

    config: MaskedPatchConfig
    main_input_name = "pixel_values"
    needs_pixel_scale = True

    def __init__(self, config: MaskedPatchConfig) -> None:
        super().__init__(config)
        ready_patch_encoder(self.encoder, "masked patch prediction")
        hidden_size = self.encoder.config.hidden_size
        self.mask_token = nn.Parameter(torch.empty(hidden_size))
        self.head = nn.Linear(hidden_size, config.num_colours)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MaskedPatchForPreTraining):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        predicted_positions: Tensor,
        bool_masked_pos: Tensor,
        source_positions: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] draws what is corrupted.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, H, W)`): images, normalised by the config's mean and deviation.
            predicted_positions (`Tensor` of shape `(B, M)`): the corrupted patches, numbered row by row.
            bool_masked_pos (boolean `Tensor` of shape `(B, P)`): where the mask token stands.
            source_positions (`Tensor` of shape `(B, P)`): elsewhere, the patch whose embedding stands there.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `colour` (nats); `logits` (B M, V) and `targets` (B M,) of the corrupted
            patches; `features` (B, D), the mean of the encoder's output.

        Raises:
            InputError: for images of a wrong shape.
        """
        check_squares(pixel_values, "masked patch prediction")
        change = partial(corrupt, mask=bool_masked_pos, sources=source_positions, mask_token=self.mask_token)
        with changed_patches(self.encoder, change):
            encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        hidden = encoded.last_hidden_state[:, num_prefix_tokens(self.encoder) :]  # (B, P, D)
        logits = self.head(take_patches(hidden, predicted_positions)).flatten(0, 1).float()  # (B M, V)
        targets = self.colours(pixel_values).gather(1, predicted_positions).flatten()  # (B M,)

        total = F.cross_entropy(logits, targets, reduction="sum")
        num_predictions = self.count_predictions({"predicted_positions": predicted_positions})
        loss = total / (num_items_in_batch or num_predictions)["colour"]
        return SSLOutput(
            loss=loss,
            loss_terms={"colour": loss.detach()},
            num_predictions=num_predictions,
            logits=logits.detach(),
            targets=targets,
            features=encoded.last_hidden_state.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def colours(self, pixel_values: Tensor) -> Tensor:
        """The class of each patch's mean colour.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, H, W)`): normalised images.

        Returns:
            `Tensor` of shape `(B, P)`, int64, in 0 … V − 1: the bins of red, green and blue, red counting most.
        """
        bits = self.config.bits_per_channel
        grid = patch_grid(self.encoder.config, (pixel_values.shape[2], pixel_values.shape[3]))
        of_patches = F.adaptive_avg_pool2d(pixel_values.float(), grid).flatten(2)  # (B, 3, P)
        colours = colours_of(of_patches, self.config.pixel_mean, self.config.pixel_scale)
        bins = (colours * 2**bits).long().clamp(0, 2**bits - 1)
        red, green, blue = bins.unbind(dim=1)
        return (red << (2 * bits)) + (green << bits) + blue

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many patches are corrupted."""
        return {"colour": (batch["predicted_positions"] >= 0).sum()}

    @staticmethod
    def draw_inputs(
        config: MaskedPatchConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws which patches are corrupted, and how.

        Args:
            config ([`MaskedPatchConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, 3, H, W).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `predicted_positions` (B, M), `bool_masked_pos` and `source_positions`,
            (B, P) each; M is at least 1.
        """
        check_squares(batch["pixel_values"], "masked patch prediction")
        height, width = batch["pixel_values"].shape[-2:]
        assert isinstance(config.encoder_config, PreTrainedConfig)
        rows, columns = patch_grid(config.encoder_config, (height, width))
        corrupted = draw_corruption(
            rows * columns,
            max(1, round(rows * columns * config.corruption_ratio)),
            generators,
            mask_token_share=config.mask_token_share,
            random_patch_share=config.random_patch_share,
        )
        return {
            **batch,
            "predicted_positions": corrupted.positions,
            "bool_masked_pos": corrupted.mask,
            "source_positions": corrupted.sources,
        }

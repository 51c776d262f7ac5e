"""iBOT: DINO, whose student besides finds in masked patches what its teacher finds in the whole view."""

# B images of this process, V views of the student (the first two global), C x H x W pixels, P patches of a global
# view, M masked patches of the image that has most, R prefix tokens, D hidden size, E bottleneck size, K prototypes

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_masking import (
    masked_patches,
    num_prefix_tokens,
    patch_dim,
    patch_grid,
    ready_patch_encoder,
)
from hf_ssl.modeling.blocks.pooling import pool
from hf_ssl.modeling.blocks.positions import positions_of, take_frames
from hf_ssl.modeling.blocks.self_distillation import collapse_diagnostics
from hf_ssl.modeling.blocks.view_masking import draw_view_mask, patch_weights
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_views, interpolation
from hf_ssl.modeling.vision.dino import DINOConfig, DINOForPreTraining


@strict
class IBOTConfig(DINOConfig):
    """Configuration of iBOT; the defaults are the paper's for ImageNet.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): a transformers image encoder of patches that keeps
            one token a patch (ViT, DeiT, DINOv2, BEiT ...; not Swin); by default ViT-B/16.
        num_prototypes (`int`): K, of the head that class token and patches share.
        patch_temperature, final_patch_temperature (`float`): τ_t > 0 of the patches, before and after the warm-up.
        temperature_warmup_share (`float`): share of the training, in [0, 1], over which both τ_t rise linearly: the
            authors' 30 of 800 epochs.
        freeze_last_layer_share (`float`): share of the training, in [0, 1], for which the prototypes stay as they are:
            the authors' first of 800 epochs.
        mask_probability (`float`): share of the global views, in (0, 1], that have masked patches.
        mask_ratio (`float`): share of the patches that are masked in these, in [0, 1], on average.
        mask_ratio_spread (`float`): that share is uniform within `mask_ratio` ± this.
        kwargs: the other fields of [`DINOConfig`].

    Raises:
        InputError: for values out of range, or an encoder without one token a patch.
    """

    model_type = "ibot-pretraining"

    num_prototypes: int = 8192
    patch_temperature: float | int = 0.04
    final_patch_temperature: float | int = 0.07
    temperature_warmup_share: float | int = 0.0375
    freeze_last_layer_share: float | int = 0.00125
    mask_probability: float | int = 0.5
    mask_ratio: float | int = 0.3
    mask_ratio_spread: float | int = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_temperatures(self, "patch_temperature", "final_patch_temperature")
        if not 0 < self.mask_probability <= 1:
            raise InputError(f"mask_probability is {self.mask_probability}; it is a share above 0 and at most 1.")
        low, high = self.mask_ratios
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"mask_ratio is {self.mask_ratio} and mask_ratio_spread {self.mask_ratio_spread}; their sum and their "
                "difference must be shares between 0 and 1."
            )
        assert isinstance(self.encoder_config, PreTrainedConfig)
        if "window_size" in self.encoder_config.to_dict():
            raise InputError(
                f"The encoder '{self.encoder_config.model_type}' merges its patches, but iBOT predicts each of them; "
                "take one that keeps a token a patch (vit, deit, dinov2, beit)."
            )

    @property
    def mask_ratios(self) -> tuple[float, float]:
        """Least and largest share of masked patches."""
        return self.mask_ratio - self.mask_ratio_spread, self.mask_ratio + self.mask_ratio_spread


@dataclass
class EncodedPatches(EncodedViews):
    """[`EncodedViews`] with the patches of the global views, the first view's before the second's.

    Args:
        patches (`Tensor` of shape `(B, M, D)`): the student's, where they are masked.
        teacher_patches (`Tensor` of shape `(B, 2P, D)`): the teacher's, all of them, without gradient.
        patch_weights (`Tensor` of shape `(B, M)`): of the masked patches in their image's loss.
        masked_positions (`Tensor` of shape `(B, M)`): which of the teacher's patches they are.
    """

    patches: Tensor | None = None
    teacher_patches: Tensor | None = None
    patch_weights: Tensor | None = None
    masked_positions: Tensor | None = None


class IBOTForPreTraining(DINOForPreTraining):
    """Image BERT pre-training with an online tokenizer (Zhou et al. 2021, arXiv:2111.07832).

    `L = L_[CLS] + L_MIM`. `L_[CLS]` is DINO's loss, whose student sees the global views û, v̂ with masked patches and
    the local ones whole. `L_MIM = −Σ_i m_i P_t^patch(u_i) · log P_s^patch(û_i)` (Eq. 2, both global views): at each
    masked patch the student, which sees a mask token there, has to say what the teacher, the online tokenizer, says of
    it in the same view, which it sees whole. Class token and patches share the head with its prototypes; the centres
    and the temperatures of the teacher are their own.

    Reference: bytedance/ibot, `main_ibot.py` and `loader.py`, commit da316d8, with the options of its README
    (`--shared_head true`). As there, the sum over the masked patches of a view is divided by their number, a view
    without any has the loss 0 and counts in the mean, and the centre of the patches is the mean over all of the
    teacher's patches, masked or not. The student's go through the head only where they are masked, the others being
    not needed. Deviations are those of [`DINOForPreTraining`].
    """

    config: IBOTConfig
    _keep_in_fp32_modules_strict = ["teacher", "sharpen", "sharpen_patches"]

    def __init__(self, config: IBOTConfig) -> None:
        super().__init__(config)
        assert isinstance(config.encoder_config, PreTrainedConfig)
        self.mask_token = nn.Parameter(torch.zeros(patch_dim(config.encoder_config)))
        self.sharpen_patches = CentredSoftmax(
            config.num_prototypes,
            centre_decay=config.centre_decay,
            temperature=config.patch_temperature,
            final_temperature=config.final_patch_temperature,
            warmup_share=config.temperature_warmup_share,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, IBOTForPreTraining):
            init.zeros_(module.mask_token)

    def ready_encoder(self) -> None:
        """Check the encoder and make it ready, before the teacher becomes its copy."""
        ready_patch_encoder(self.encoder, "iBOT")
        super().ready_encoder()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor,
        masked_positions: Tensor,
        local_pixel_values: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] makes the masks.

        Args:
            pixel_values (`Tensor` of shape `(B, 2, C, H, W)`): two global views of each image, normalised as the
                encoder expects.
            bool_masked_pos (boolean `Tensor` of shape `(B, 2, P)`): `True` = masked; patches row by row.
            masked_positions (`Tensor` of shape `(B, M)`): the masked ones of both views' 2P patches, see
                [`positions_of`].
            local_pixel_values (`Tensor` of shape `(B, V - 2, C, h, w)`, *optional*): local views, of a size of their
                own.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisors of the terms ([`count_predictions`])
                summed over the whole optimiser step; by default those of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`; what they give is of the global
                views.

        Returns:
            [`SSLOutput`]: `loss_terms` `cross_view` and `masked_patches`; `diagnostics` of [`collapse_diagnostics`],
            those of the patches as `patch_...`; `features` (2B, D), the encoder's output for the masked global views.

        Raises:
            InputError: when `pixel_values` is not two views of each image.
        """
        encoded = self.embed(pixel_values, bool_masked_pos, masked_positions, local_pixel_values, **kwargs)
        output = self.compare(encoded, num_items_in_batch)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(  # type: ignore[override]  # iBOT takes masks besides
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor,
        masked_positions: Tensor,
        local_pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> EncodedPatches:
        """The encoders' part: the student's masked patches beside its views, all patches of the teacher's."""
        check_views(pixel_values, 2, "iBOT")
        with masked_patches(self.encoder, bool_masked_pos.flatten(0, 1), self.mask_token):
            encoded, features, patches = self.encode_patches(self.encoder, pixel_values, **kwargs)
        if local_pixel_values is not None:
            local = encode_views(self.encoder, local_pixel_values, self.config.pooling)
            features = torch.cat([features, local["features"]], dim=1)
        with torch.no_grad():
            teacher = self.teacher["encoder"]
            _, teacher_features, teacher_patches = self.encode_patches(teacher, pixel_values.float())
        return EncodedPatches(
            features=features,
            teacher_features=teacher_features,
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
            patches=take_frames(patches, masked_positions),
            teacher_patches=teacher_patches,
            patch_weights=patch_weights(bool_masked_pos, masked_positions),
            masked_positions=masked_positions,
        )

    def encode_patches(
        self, encoder: PreTrainedModel, pixel_values: Tensor, **kwargs: Any
    ) -> tuple[ModelOutput, Tensor, Tensor]:
        """An encoder's output for global views (B, 2, C, H, W), their features (B, 2, D) and patches (B, 2P, D)."""
        images = pixel_values.flatten(0, 1)
        encoded = encoder(pixel_values=images, **interpolation(encoder, images), **kwargs)
        hidden = encoded.last_hidden_state  # (2B, R + P, D)
        features = pool(hidden, self.config.pooling).unflatten(0, (-1, 2))
        return encoded, features, hidden[:, num_prefix_tokens(encoder) :].unflatten(0, (-1, 2)).flatten(1, 2)

    def compare(self, encoded: EncodedViews, num_items_in_batch: dict[str, Tensor] | None = None) -> SSLOutput:
        """The loss from what [`embed`] gave; what the teacher makes of views and patches waits for the centres."""
        assert isinstance(encoded, EncodedPatches)
        output = super().compare(encoded, num_items_in_batch)
        teacher = self.teacher["projection_head"]
        z = self.projection_head.bottleneck(encoded["patches"])  # (B, M, E)
        with torch.no_grad():
            z_teacher = teacher.bottleneck(encoded.teacher_patches)  # (B, 2P, E)
            z_target = take_frames(z_teacher, encoded["masked_positions"])  # (B, M, E)
            of_patches = encoded["patch_weights"].flatten()  # (B M,)
            weights = of_patches / of_patches.sum().clamp(min=torch.finfo(of_patches.dtype).tiny)
        # each patch is a row, with one view of the student and the same one of the teacher
        one_view = torch.ones(1, 1, device=z.device)
        rows, targets = z.flatten(0, 1)[:, None], z_target.flatten(0, 1)[:, None]  # (B M, 1, E)
        distilled = self.distil(rows, targets, self.sharpen_patches, weights, observed=z_teacher)
        num_predictions = self.count_predictions({"pixel_values": z})
        divisor = (num_items_in_batch or num_predictions)["masked_patches"]
        loss = (distilled.cross_entropy.flatten() * of_patches).sum() / divisor
        assert output.loss is not None
        assert output.loss_terms is not None
        assert output.diagnostics is not None
        output.loss = output.loss + loss
        output.loss_terms["masked_patches"] = loss.detach()
        output.num_predictions = num_predictions
        of_collapse = collapse_diagnostics(distilled, weights, one_view)
        output.diagnostics.update({f"patch_{name}": value for name, value in of_collapse.items()})
        return output

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher and both centres, and set both temperatures.

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        super().after_optimizer_step(progress)
        self.sharpen_patches.commit(progress)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many images there are: both terms are means over them, of the patches with the weights of each image."""
        of_views = DINOForPreTraining.count_predictions(batch)
        return {**of_views, "masked_patches": of_views["cross_view"]}

    @staticmethod
    def draw_inputs(
        config: IBOTConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the masks of the global views.

        Args:
            config ([`IBOTConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, 2, C, H, W).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `bool_masked_pos` (B, 2, P) and `masked_positions` (B, M).

        Raises:
            InputError: when patches do not fill the views.
        """
        height, width = batch["pixel_values"].shape[-2:]
        assert isinstance(config.encoder_config, PreTrainedConfig)
        grid = patch_grid(config.encoder_config, (height, width))
        probability, ratios = config.mask_probability, config.mask_ratios
        masks = [draw_view_mask(grid, generator, probability, ratios) for generator in generators for _ in range(2)]
        mask = torch.stack(masks).flatten(1).unflatten(0, (-1, 2))  # (B, 2, P)
        return {**batch, "bool_masked_pos": mask, "masked_positions": positions_of(mask.flatten(1))}

"""I-JEPA: from one part of an image, predict what a teacher makes of other parts."""

# B images, P = h x w patches, K patches of the context, T target blocks of at most M patches, D hidden size

from dataclasses import field
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ViTConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.image_config import ImageSSLConfig
from hf_ssl.modeling.blocks.latent_regression import channel_std, normalise_features, smooth_l1_errors
from hf_ssl.modeling.blocks.multi_block_masking import multi_block_masks
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_masking import (
    check_visible_patches,
    num_prefix_tokens,
    patch_grid,
    ready_patch_encoder,
    visible_patches,
)
from hf_ssl.modeling.blocks.positions import NOWHERE, take_frames
from hf_ssl.modeling.blocks.student_teacher import StudentTeacherPreTrainedModel
from hf_ssl.modeling.blocks.teacher import follow, linear_decay, make_teacher
from hf_ssl.modeling.blocks.views import check_squares, interpolation
from hf_ssl.modeling.vision.ijepa_predictor import IJepaPredictor


@strict
class IJepaPreTrainingConfig(ImageSSLConfig):
    """Configuration of I-JEPA; the defaults are the paper's for ImageNet.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any ViT-like encoder with absolute or rotary
            positions (`ijepa`, `vit`, `deit`, `dinov2`, `dinov3_vit` ...); by default an `ijepa` of ViT-B/16's size.
        num_target_blocks (`int`): T, at least 1.
        target_scale (`list[float]`): range of a target block's share of the image.
        target_aspect (`list[float]`): range of its height / width.
        context_scale (`list[float]`): range of the context block's share of the image, before the targets are taken
            out of it.
        context_share (`float`): K / P, rounded down: share of the patches that the student sees, above 0 and at most
            half of `context_scale[0]`; see [`multi_block_masks`].
        predictor_hidden_size (`int`): a multiple of 4 and of the number of heads.
        predictor_num_hidden_layers (`int`): at least 1.
        predictor_num_attention_heads (`int`): the paper's predictor has as many as its encoder.
        predictor_intermediate_size (`int`): of its feed-forward layers.
        ema_decay (`float`): in [0, 1], of the teacher at the beginning of the training; it rises linearly.
        ema_end_decay (`float`): in [0, 1], at its end.
        initializer_range (`float`): standard deviation of the predictor's first weights and of its mask token.

    Raises:
        InputError: for values that do not fit together, or an encoder that cannot see some patches alone.
    """

    model_type = "ijepa-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="ijepa")}

    num_target_blocks: int = 4
    target_scale: list[float] | tuple[float, ...] = field(default_factory=lambda: [0.15, 0.2])
    target_aspect: list[float] | tuple[float, ...] = field(default_factory=lambda: [0.75, 1.5])
    context_scale: list[float] | tuple[float, ...] = field(default_factory=lambda: [0.85, 1.0])
    context_share: float | int = 0.25
    predictor_hidden_size: int = 384
    predictor_num_hidden_layers: int = 12
    predictor_num_attention_heads: int = 12
    predictor_intermediate_size: int = 1536
    ema_decay: float | int = 0.996
    ema_end_decay: float | int = 1.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("num_target_blocks", "predictor_num_hidden_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("target_scale", "target_aspect", "context_scale"):
            values = list(getattr(self, name))
            if len(values) != 2 or not 0 < values[0] <= values[1] or (values[1] > 1 and name != "target_aspect"):
                raise InputError(f"{name} is {values}; give a low and a high value above 0 (shares at most 1).")
        if not 0 < self.context_share <= self.context_scale[0] / 2:
            raise InputError(
                f"context_share is {self.context_share}; it must be above 0 and at most half of context_scale[0], "
                f"{self.context_scale[0]}."
            )
        check_shares(self, "ema_decay", "ema_end_decay")
        if self.predictor_hidden_size % 4 or self.predictor_hidden_size % self.predictor_num_attention_heads:
            raise InputError(
                f"predictor_hidden_size is {self.predictor_hidden_size}; it must be a multiple of 4, for the "
                f"positions, and of the {self.predictor_num_attention_heads} heads (predictor_num_attention_heads)."
            )
        assert isinstance(self.encoder_config, PreTrainedConfig)
        check_visible_patches(self.encoder_config)


def predictor_layers(config: IJepaPreTrainingConfig) -> ViTConfig:
    """The config of the predictor's layers."""
    return ViTConfig(
        hidden_size=config.predictor_hidden_size,
        num_hidden_layers=config.predictor_num_hidden_layers,
        num_attention_heads=config.predictor_num_attention_heads,
        intermediate_size=config.predictor_intermediate_size,
        layer_norm_eps=1e-6,
        attn_implementation=config._attn_implementation,
    )


class IJepaForPreTraining(StudentTeacherPreTrainedModel):
    """The image-based joint-embedding predictive architecture (Assran et al. 2023, arXiv:2301.08243).

    `L = mean_{i, j ∈ B_i} d(ŝ_j, s_j)` (section 3): B_i are T blocks of patches, s_j what the teacher makes of patch j
    of the whole image, normalised by its own mean and standard deviation, and ŝ_j what the predictor makes of the
    context and of j's position. The context is what is left of a large block without the targets, and the student sees
    it alone. d is the smooth L1 distance of the authors' code; the paper writes a squared one, summed over the patches
    of a block. The teacher is a moving average of the student. It alone reads whole images, and it is what is exported
    (appendix A.1: the target encoder is evaluated).

    Reference: facebookresearch/ijepa, `src/train.py` and `src/models/vision_transformer.py`, commit 52c1ae9.
    Deviations:

    * What is drawn for an image does not depend on the others of its batch, see [`multi_block_masks`].
    * The loss is the mean over the patches of all blocks of all processes.
    * The encoder's positions are learned (transformers' ViT and I-JEPA), the authors' are fixed; its layers start from
      N(0, 0.02²) at every depth, where they shrink the last linear layers of the l-th by √(2 l).
    * A class token, where an encoder has one, is seen by the patches, but nothing is predicted from it or of it.
    """

    config: IJepaPreTrainingConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: IJepaPreTrainingConfig) -> None:
        super().__init__(config)
        ready_patch_encoder(self.encoder, "I-JEPA")
        self.predictor = IJepaPredictor(self.encoder.config.hidden_size, predictor_layers(config))
        self.teacher = make_teacher(self.student)
        self.post_init()

    @property
    def exported_encoder(self) -> PreTrainedModel:
        """The teacher."""
        return self.teacher

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, IJepaPredictor):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        context_positions: Tensor,
        target_positions: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] draws the blocks.

        Args:
            pixel_values (`Tensor` of shape `(B, C, S, S)`): images, normalised as the encoder expects.
            context_positions (`Tensor` of shape `(B, K)`): the patches that the student sees, numbered row by row.
            target_positions (`Tensor` of shape `(B, T, M)`): the patches of the target blocks, and [`NOWHERE`] where a
                block has fewer than M.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `regression`; `diagnostics` `target_std` and `prediction_std` over the patches
            of the blocks ([`channel_std`]); `features` (B, D), the mean of the context's features.

        Raises:
            InputError: for images that are not square.
        """
        check_squares(pixel_values, "I-JEPA")
        grid = patch_grid(self.encoder.config, (pixel_values.shape[2], pixel_values.shape[3]))
        with visible_patches(self.encoder, context_positions):
            encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        context = encoded.last_hidden_state[:, num_prefix_tokens(self.encoder) :]  # (B, K, D)
        predictions = self.predictor(context, grid, context_positions, target_positions).flatten(1, 2)  # (B, T M, D)
        positions = target_positions.flatten(1)  # (B, T M)
        targets = take_frames(self.targets(pixel_values), positions)

        is_patch = positions != NOWHERE
        total = (smooth_l1_errors(predictions, targets, beta=1.0) * is_patch).sum()
        num_predictions = self.count_predictions({"target_positions": target_positions})
        loss = total / (num_items_in_batch or num_predictions)["regression"]
        return SSLOutput(
            loss=loss,
            loss_terms={"regression": loss.detach()},
            num_predictions=num_predictions,
            diagnostics={
                "target_std": channel_std(targets, is_patch),
                "prediction_std": channel_std(predictions, is_patch),
            },
            features=context.detach().mean(dim=1),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )

    @torch.no_grad()
    def targets(self, pixel_values: Tensor) -> Tensor:
        """What the teacher makes of each patch of the whole image, normalised: (B, P, D), fp32, without gradient."""
        hidden = self.teacher(pixel_values=pixel_values, **interpolation(self.teacher, pixel_values)).last_hidden_state
        return normalise_features(hidden[:, num_prefix_tokens(self.teacher) :])

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher towards the student; `progress` is the share of the training that is done, in [0, 1]."""
        decay = linear_decay(progress, self.config.ema_decay, self.config.ema_end_decay, share=1.0)
        follow(self.teacher, self.student, decay)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many patches the target blocks have; one in two blocks counts twice."""
        return {"regression": (batch["target_positions"] != NOWHERE).sum()}

    @staticmethod
    def draw_inputs(
        config: IJepaPreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the blocks.

        Args:
            config ([`IJepaPreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, C, S, S).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `context_positions` (B, K), K = ⌊P · context_share⌋, and
            `target_positions` (B, T, M).

        Raises:
            InputError: when the context would not have a single patch.
        """
        check_squares(batch["pixel_values"], "I-JEPA")
        height, width = batch["pixel_values"].shape[-2:]
        assert isinstance(config.encoder_config, PreTrainedConfig)
        grid = patch_grid(config.encoder_config, (height, width))
        num_context = int(grid[0] * grid[1] * config.context_share)
        if num_context == 0:
            raise InputError(
                f"With context_share {config.context_share} none of the {grid[0] * grid[1]} patches of an image is "
                "seen; raise it, or take smaller patches."
            )
        masks = [
            multi_block_masks(
                grid,
                generator,
                num_targets=config.num_target_blocks,
                num_context=num_context,
                target_scale=config.target_scale,
                target_aspect=config.target_aspect,
                context_scale=config.context_scale,
            )
            for generator in generators
        ]
        contexts, targets = zip(*masks, strict=True)
        of_patch = pad_sequence([blocks.T for blocks in targets], batch_first=True, padding_value=NOWHERE)  # (B, M, T)
        return {
            **batch,
            "context_positions": torch.stack(contexts),
            "target_positions": of_patch.transpose(1, 2).contiguous(),
        }

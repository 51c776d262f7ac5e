"""data2vec for images: from a masked image, predict what a teacher makes of the whole one."""

# B images, P = h x w patches, M masked patches of the image that has most, R prefix tokens, D hidden size, K layers

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, Data2VecVisionConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.block_masking import block_mask
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.image_config import ImageSSLConfig
from hf_ssl.modeling.blocks.latent_regression import average_blocks, channel_std, smooth_l1_errors
from hf_ssl.modeling.blocks.layer_outputs import outputs_of
from hf_ssl.modeling.blocks.layer_stack import layer_stack
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_masking import masked_patches, num_prefix_tokens, patch_grid, ready_patch_encoder
from hf_ssl.modeling.blocks.positions import NOWHERE, positions_of, take_frames
from hf_ssl.modeling.blocks.student_teacher import StudentTeacherPreTrainedModel
from hf_ssl.modeling.blocks.teacher import follow, linear_decay, make_teacher
from hf_ssl.modeling.blocks.views import check_squares, interpolation

KINDS_OF_POSITIONS = (
    "use_absolute_position_embeddings",
    "use_relative_position_bias",
    "use_shared_relative_position_bias",
)
"""Fields of the encoders of the BEiT family, which have no positions unless one of them is true."""


@strict
class Data2VecVisionPreTrainingConfig(ImageSSLConfig):
    """Configuration of data2vec for images; the defaults are the paper's for ViT-B.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any ViT-like encoder of transformers
            (`data2vec-vision`, `beit`, `vit`, `deit`, `dinov2` ...); by default a `data2vec-vision` with relative
            positions that its layers share and a layer norm at the end, as in the authors' code. A ViT-MAE's own
            masking is switched off.
        average_top_k_layers (`int`): K, how many of the teacher's upper layers make a target, at least 1.
        loss_beta (`float`): β > 0 of the smooth L1 loss: the error up to which it is a square.
        mask_ratio (`float`): share of the patches in (0, 1] to mask, rounded: of 196 patches 120.
        min_mask_block (`int`): patches of the smallest masked block, at least 1.
        ema_decay (`float`): τ in [0, 1] at the beginning of the training.
        ema_end_decay (`float`): τ in [0, 1] after the rise.
        ema_rise_share (`float`): share of the training, in [0, 1], over which τ rises linearly; 0 in the paper, whose
            τ is constant.
        initializer_range (`float`): standard deviation of the mask token's and the head's first weights.

    Raises:
        InputError: for values out of range, more layers than the encoder has, or an encoder without positions.
    """

    model_type = "data2vec-vision-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="data2vec-vision")}

    average_top_k_layers: int = 6
    loss_beta: float | int = 2.0
    mask_ratio: float | int = 0.612
    min_mask_block: int = 16
    ema_decay: float | int = 0.999
    ema_end_decay: float | int = 0.9998
    ema_rise_share: float | int = 0.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_config is None:
            self.encoder_config = Data2VecVisionConfig(
                use_shared_relative_position_bias=True, use_mean_pooling=False, layer_scale_init_value=1e-4
            )
        super().__post_init__(**kwargs)
        for name in ("average_top_k_layers", "min_mask_block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        check_shares(self, "ema_decay", "ema_end_decay", "ema_rise_share")
        if not 0 < self.mask_ratio <= 1:
            raise InputError(f"mask_ratio is {self.mask_ratio}; it is a share above 0 and at most 1.")
        if self.loss_beta <= 0:
            raise InputError(f"loss_beta is {self.loss_beta}; it must be above 0.")
        _check_encoder(self.encoder_config, self.average_top_k_layers)


class Data2VecVisionForPreTraining(StudentTeacherPreTrainedModel):
    """data2vec (Baevski et al. 2022, arXiv:2202.03555) for images: a student regresses its own teacher's layers.

    The student reads the image with mask tokens in place of blocks of patches, the teacher, a moving average of the
    student (`Δ ← τ Δ + (1 − τ) θ`, section 3.2), the whole one. The target of patch t is `y_t = LN(1/K Σ_l LN(a_t^l))`
    over the outputs a^l of the teacher's top K blocks (section 3.3), each vector normalised by its own mean and
    standard deviation. The loss is the mean over masked patches of the smooth L1 distance (Eq. 1) between y_t and
    f_t(x̃): f a linear layer on the student's output for the masked image x̃.

    Reference: facebookresearch/data2vec_vision, `beit/engine_for_cyclical.py` and `modeling_cyclical.py`, commit
    af9a363. It differs from data2vec for speech in the same places: a^l is the output of a whole block and not of its
    feed-forward part, normalised over features and not over time, and the teacher follows the whole encoder, patch
    embeddings and positions included, which the paper describes as shared. Deviations:

    * The loss is the mean over the masked patches of all processes.
    * τ is placed by the share of the training that is done, not by the number of updates.
    * The encoder starts as transformers has it, N(0, 0.02²); the authors shrink the last linear layers of the l-th
      block by √(2 l). Stochastic depth and dropout are the encoder's.
    """

    config: Data2VecVisionPreTrainingConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: Data2VecVisionPreTrainingConfig) -> None:
        super().__init__(config)
        ready_patch_encoder(self.encoder, "data2vec")
        hidden_size = self.encoder.config.hidden_size
        self.mask_token = nn.Parameter(torch.empty(hidden_size))
        self.projection_head = nn.Linear(hidden_size, hidden_size)
        self.teacher = make_teacher(self.student)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Data2VecVisionForPreTraining):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor,
        masked_positions: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] draws what is masked.

        Args:
            pixel_values (`Tensor` of shape `(B, C, S, S)`): images, normalised as the encoder expects.
            bool_masked_pos (boolean `Tensor` of shape `(B, h, w)`): `True` = masked.
            masked_positions (`Tensor` of shape `(B, M)`): the masked patches, see [`positions_of`].
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `regression`; `diagnostics` `target_std` and `prediction_std` over the masked
            patches ([`channel_std`]); `features` (B, D), the mean of the encoder's output.

        Raises:
            InputError: for images that are not square.
        """
        check_squares(pixel_values, "data2vec")
        with masked_patches(self.encoder, bool_masked_pos.flatten(1), self.mask_token):
            encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        hidden = encoded.last_hidden_state[:, num_prefix_tokens(self.encoder) :]  # (B, P, D)
        predictions = self.projection_head(take_frames(hidden, masked_positions))  # (B, M, D)
        targets = take_frames(self.targets(pixel_values), masked_positions)

        is_masked = masked_positions != NOWHERE
        total = (smooth_l1_errors(predictions, targets, self.config.loss_beta) * is_masked).sum()
        num_predictions = self.count_predictions({"bool_masked_pos": bool_masked_pos})
        loss = total / (num_items_in_batch or num_predictions)["regression"].clamp(min=1)
        return SSLOutput(
            loss=loss,
            loss_terms={"regression": loss.detach()},
            num_predictions=num_predictions,
            diagnostics={
                "target_std": channel_std(targets, is_masked),
                "prediction_std": channel_std(predictions, is_masked),
            },
            features=hidden.detach().mean(dim=1),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )

    @torch.no_grad()
    def targets(self, pixel_values: Tensor) -> Tensor:
        """What the student is to predict of each patch of the whole image: (B, P, D), fp32, without gradient."""
        with outputs_of(layer_stack(self.teacher)[-self.config.average_top_k_layers :]) as layers:
            self.teacher(pixel_values=pixel_values, **interpolation(self.teacher, pixel_values))
        num_prefix = num_prefix_tokens(self.teacher)
        # BEiT's layers return tuples
        blocks = [layer if isinstance(layer, Tensor) else layer[0] for layer in layers]
        return average_blocks([block[:, num_prefix:] for block in blocks])

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher towards the student; `progress` is the share of the training that is done, in [0, 1]."""
        config = self.config
        decay = linear_decay(progress, config.ema_decay, config.ema_end_decay, config.ema_rise_share)
        follow(self.teacher, self.student, decay)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many patches are masked."""
        return {"regression": batch["bool_masked_pos"].sum()}

    @staticmethod
    def draw_inputs(
        config: Data2VecVisionPreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the blocks that are masked.

        Args:
            config ([`Data2VecVisionPreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, C, S, S).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `bool_masked_pos` (B, h, w) and `masked_positions` (B, M).

        Raises:
            InputError: for images that are not square or do not divide into patches.
        """
        check_squares(batch["pixel_values"], "data2vec")
        height, width = batch["pixel_values"].shape[-2:]
        assert isinstance(config.encoder_config, PreTrainedConfig)
        grid = patch_grid(config.encoder_config, (height, width))
        num_masked = round(grid[0] * grid[1] * config.mask_ratio)
        masks = [block_mask(grid, num_masked, generator, min_block=config.min_mask_block) for generator in generators]
        mask = torch.stack(masks)
        return {**batch, "bool_masked_pos": mask, "masked_positions": positions_of(mask.flatten(1))}


def _check_encoder(encoder_config: PreTrainedConfig, top_k: int) -> None:
    """Refuses encoders that cannot tell one masked patch from another, and more layers than there are."""
    fields = encoder_config.to_dict()
    if "use_shared_relative_position_bias" in fields and not any(fields[kind] for kind in KINDS_OF_POSITIONS):
        raise InputError(
            f"The encoder '{encoder_config.model_type}' has no positions, so that all masked patches are alike to it; "
            f"set one of {', '.join(KINDS_OF_POSITIONS)} in encoder_config."
        )
    if top_k > fields.get("num_hidden_layers", top_k):
        raise InputError(
            f"average_top_k_layers is {top_k} but the encoder has {fields['num_hidden_layers']} layers; set it to at "
            f"most {fields['num_hidden_layers']}."
        )

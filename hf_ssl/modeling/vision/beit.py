"""BEiT: hide blocks of an image, and predict the visual tokens that a tokenizer sees there."""

# B images of C x H x W pixels, P = h x w patches, M masked of the image that has most, D hidden size, V tokens

from dataclasses import field
from typing import Any, Self

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.block_masking import block_mask
from hf_ssl.modeling.blocks.codebook import code_perplexity
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.image_config import ImageSSLConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_masking import masked_patches, num_prefix_tokens, patch_grid, ready_patch_encoder
from hf_ssl.modeling.blocks.pixels import CHANNELS, check_pixel_scale, colours_of
from hf_ssl.modeling.blocks.positions import positions_of, take_frames, take_labels
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel, load_published
from hf_ssl.modeling.blocks.teacher import copy_weights, freeze
from hf_ssl.modeling.blocks.views import check_squares, interpolation
from hf_ssl.modeling.vision.image_tokenizers import tokenizer_class, tokens_of


@strict
class BeitPreTrainingConfig(ImageSSLConfig):
    """Configuration of BEiT; the defaults are the paper's, but for the tokenizer.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any ViT-like encoder of transformers; by default
            BEiT-B/16. A ViT-MAE's own masking is switched off.
        tokenizer (`str`, *optional*): folder or name on the Hub of the image tokenizer that a training starts with.
            Its weights are then part of the objective's own checkpoints, whose config names none.
        tokenizer_config (`dict` or `PreTrainedConfig`, *optional*): its architecture: `patch-codebook`,
            `chameleon_vqgan` or `janus_vqgan`; by default that of `tokenizer`, or else a codebook of 8192 patches.
        max_masked_patches (`int`): of each image, at least 1.
        min_block_patches (`int`): of a masked block, at least 1.
        pixel_mean (`list[float]`): `image_mean` of the image processor: it tells the colours that the tokenizer reads.
            The data decide it (`hf-ssl pretrain`).
        pixel_scale (`list[float]`): `image_std` of the image processor.

    Raises:
        InputError: for values that do not fit together, or a tokenizer that is not known.
    """

    model_type = "beit-pretraining"
    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="beit"),
        "tokenizer_config": SubConfigSpec(config_class=AutoConfig, model_type="patch-codebook"),
    }

    tokenizer: str | None = None
    tokenizer_config: dict | PreTrainedConfig | None = None
    max_masked_patches: int = 75
    min_block_patches: int = 16
    pixel_mean: list[float] = field(default_factory=lambda: [0.5] * CHANNELS)
    pixel_scale: list[float] = field(default_factory=lambda: [0.5] * CHANNELS)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.tokenizer is not None and self.tokenizer_config is None:
            self.tokenizer_config = load_published(AutoConfig, self.tokenizer)
        super().__post_init__(**kwargs)
        for name in ("max_masked_patches", "min_block_patches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        check_pixel_scale(self.pixel_mean, self.pixel_scale)
        assert isinstance(self.encoder_config, PreTrainedConfig)
        assert isinstance(self.tokenizer_config, PreTrainedConfig)
        tokenizer_class(self.tokenizer_config)


class BeitForPreTraining(SSLPreTrainedModel):
    """BERT pre-training of image Transformers (Bao et al. 2021, arXiv:2106.08254).

    `L = mean_{i ∈ M} −log p(z_i | x^M)` (Eq. 2, the mean instead of the sum): x^M the image whose patches M, made of
    blocks, are hidden behind a learned token, z the tokens that a tokenizer gives the whole image, one a patch.

    Reference: microsoft/unilm, `beit/`, commit 768a3c8; on the same weights, masks and tokens the loss is that of
    transformers' `BeitForMaskedImageModeling`. Deviations:

    * The tokenizer is any of [`hf_ssl.modeling.vision.image_tokenizers`]. The paper's, DALL-E's, is not in
      transformers.
    * The tokenizer sees the pixels that the encoder sees, resized where it needs another size; the authors resize
      their crop twice, from the same jittered colours.
    * The loss is the mean over the masked patches of all processes.
    * Weights start as transformers has them; the authors' scale down the last layers of each block by its depth.
    """

    config: BeitPreTrainingConfig
    main_input_name = "pixel_values"
    needs_pixel_scale = True

    def __init__(self, config: BeitPreTrainingConfig) -> None:
        super().__init__(config)
        ready_patch_encoder(self.encoder, "BEiT")
        assert isinstance(config.tokenizer_config, PreTrainedConfig)
        self.tokenizer = freeze(tokenizer_class(config.tokenizer_config)(config.tokenizer_config))
        hidden_size = self.encoder.config.hidden_size
        self.mask_token = nn.Parameter(torch.zeros(hidden_size))
        self.layernorm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.lm_head = nn.Linear(hidden_size, config.tokenizer_config.num_embeddings)
        self.post_init()

    def train(self, mode: bool = True) -> Self:
        """Training mode of all but the tokenizer."""
        super().train(mode)
        freeze(self.tokenizer)
        return self

    def load_given_parts(self) -> None:
        """Give the tokenizer the weights that `config.tokenizer` names, which are the model's own from then on.

        Raises:
            InputError: when there are none.
        """
        if self.config.tokenizer is not None:
            copy_weights(self.tokenizer, load_published(type(self.tokenizer), self.config.tokenizer))
            self.config.tokenizer = None

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
            pixel_values (`Tensor` of shape `(B, 3, H, W)`): images, normalised by the config's mean and scale.
            bool_masked_pos (boolean `Tensor` of shape `(B, P)`): `True` = masked; patches row by row.
            masked_positions (`Tensor` of shape `(B, M)`): the masked patches, see [`positions_of`].
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `token` (nats); `logits` (B M, V) and `targets` (B M,) of the masked patches;
            `diagnostics` `codebook_perplexity`, the effective number of tokens among the targets; `features` (B, D),
            the mean of the encoder's output.

        Raises:
            InputError: for images or masks of a wrong shape.
        """
        check_squares(pixel_values, "BEiT")
        with masked_patches(self.encoder, bool_masked_pos, self.mask_token):
            encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        hidden = encoded.last_hidden_state[:, num_prefix_tokens(self.encoder) :]  # (B, P, D)
        logits = self.lm_head(self.layernorm(take_frames(hidden, masked_positions))).flatten(0, 1).float()  # (B M, V)
        targets = take_labels(self.tokens(pixel_values), masked_positions, IGNORED).flatten()  # (B M,)

        total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        num_predictions = self.count_predictions({"bool_masked_pos": bool_masked_pos})
        loss = total / (num_items_in_batch or num_predictions)["token"].clamp(min=1)
        return SSLOutput(
            loss=loss,
            loss_terms={"token": loss.detach()},
            num_predictions=num_predictions,
            logits=logits.detach(),
            targets=targets,
            diagnostics={"codebook_perplexity": code_perplexity(targets, logits.shape[1])},
            features=encoded.last_hidden_state.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @torch.no_grad()
    def tokens(self, pixel_values: Tensor) -> Tensor:
        """What the tokenizer sees in whole images (B, 3, H, W): `(B, P)`, int64, in 0 … V − 1."""
        grid = patch_grid(self.encoder.config, (pixel_values.shape[2], pixel_values.shape[3]))
        colours = colours_of(pixel_values.float(), self.config.pixel_mean, self.config.pixel_scale)
        return tokens_of(self.tokenizer, colours, grid)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many patches are masked."""
        return {"token": batch["bool_masked_pos"].sum()}

    @staticmethod
    def draw_inputs(
        config: BeitPreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the masks ([`block_mask`]).

        Args:
            config ([`BeitPreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, 3, H, W).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `bool_masked_pos` (B, P) and `masked_positions` (B, M).

        Raises:
            InputError: when all patches of an image would be masked.
        """
        check_squares(batch["pixel_values"], "BEiT")
        height, width = batch["pixel_values"].shape[-2:]
        assert isinstance(config.encoder_config, PreTrainedConfig)
        grid, most = patch_grid(config.encoder_config, (height, width)), config.max_masked_patches
        if most >= grid[0] * grid[1]:
            raise InputError(
                f"max_masked_patches is {most}, but an image has {grid[0] * grid[1]} patches; mask about 40 % of them."
            )
        masks = [block_mask(grid, most, generator, min_block=config.min_block_patches) for generator in generators]
        mask = torch.stack(masks).flatten(1)
        return {**batch, "bool_masked_pos": mask, "masked_positions": positions_of(mask)}

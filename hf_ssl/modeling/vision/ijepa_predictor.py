"""The predictor of I-JEPA: from what an encoder makes of some patches, what it would make of others."""

# B images, P = h x w patches, K patches of the context, T target blocks of at most M patches, D hidden size,
# E hidden size of the predictor

import torch
from torch import Tensor, nn
from transformers import ViTConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.vit.modeling_vit import ViTLayer

from hf_ssl.modeling.blocks.patches import sincos_positions
from hf_ssl.modeling.blocks.positions import NOWHERE


class IJepaPredictor(nn.Module):
    """From the context's features to those of one target block at a time; its positions are fixed.

    The model that holds it fills `mask_token` in its `_init_weights`.

    Args:
        hidden_size (`int`): D, of the features.
        layer_config (`ViTConfig`): of its layers, which are those of transformers' ViT; `hidden_size`, E, is a
            multiple of 4.
    """

    def __init__(self, hidden_size: int, layer_config: ViTConfig) -> None:
        super().__init__()
        size = layer_config.hidden_size
        self.layer_config = layer_config
        self.embed = nn.Linear(hidden_size, size)
        self.mask_token = nn.Parameter(torch.empty(size))
        self.layers = nn.ModuleList(ViTLayer(layer_config) for _ in range(layer_config.num_hidden_layers))
        self.norm = nn.LayerNorm(size, eps=layer_config.layer_norm_eps)
        self.predict = nn.Linear(size, hidden_size)

    def forward(
        self, context: Tensor, grid: tuple[int, int], context_positions: Tensor, target_positions: Tensor
    ) -> Tensor:
        """Predictions for the patches of each block; no block sees another one's mask tokens.

        Args:
            context (`Tensor` of shape `(B, K, D)`): the encoder's last layer.
            grid (`tuple[int, int]`): rows and columns of patches.
            context_positions (`Tensor` of shape `(B, K)`): of the context's patches.
            target_positions (`Tensor` of shape `(B, T, M)`): of the blocks' patches, and [`NOWHERE`] where a block has
                fewer.

        Returns:
            `Tensor` of shape `(B, T, M, D)`.
        """
        num_blocks, num_seen = target_positions.shape[1], context.shape[1]
        tokens = self.embed(context)  # (B, K, E)
        positions = sincos_positions(grid, tokens.shape[-1], tokens.device).to(tokens.dtype)  # (P, E)
        seen = (tokens + positions[context_positions]).repeat_interleave(num_blocks, dim=0)  # (B T, K, E)
        blocks = target_positions.flatten(0, 1)  # (B T, M)
        asked = self.mask_token.to(tokens.dtype) + positions[blocks.clamp(min=0)]  # (B T, M, E)
        tokens = torch.cat([seen, asked], dim=1)

        exists = torch.cat([torch.ones_like(blocks[:, :1]).expand(-1, num_seen), (blocks != NOWHERE).long()], dim=1)
        mask = create_bidirectional_mask(
            config=self.layer_config,
            inputs_embeds=tokens,
            attention_mask=exists,
            allow_is_bidirectional_skip=False,  # it would look whether all exist, for which a GPU's host has to wait
        )
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return self.predict(self.norm(tokens[:, num_seen:])).unflatten(0, (-1, num_blocks))

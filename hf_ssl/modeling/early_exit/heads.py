"""The head of one exit, and how wide the hidden states are that it reads."""

# B rows, T tokens or frames, D hidden, C classes

from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_ssl.modeling.blocks.layer_stack import num_layers
from hf_ssl.modeling.blocks.pooling import hidden_size_of, pool


class ExitHead(nn.Module):
    """From the hidden states after a layer to scores of classes.

    In the middle of a stack hidden states are not normalised in encoders that norm before each block (ViT, ModernBERT,
    the large wav2vec 2.0); the norm at the encoder's end belongs to its last layer. So an exit before the last has a
    LayerNorm of its own, as wide as the layer, on what it reads. The last exit reads the encoder's output as it is.

    Args:
        size (`int`): D of the layer.
        num_classes (`int`): C.
        pooling (`str`, *optional*): `"cls"` or `"mean"`; `None` keeps every position, for tokens and frames.
        with_pooler (`bool`): DeeBERT's dense layer with tanh before the linear one (arXiv:2004.12993, section 3.1).
        dropout (`float`): before the linear layer.
        with_norm (`bool`): for an exit before the last.
    """

    def __init__(
        self, size: int, num_classes: int, pooling: str | None, with_pooler: bool, dropout: float, with_norm: bool
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.norm = nn.LayerNorm(size) if with_norm else nn.Identity()
        self.pooler = nn.Sequential(nn.Linear(size, size), nn.Tanh()) if with_pooler else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, num_classes)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the head sees of hidden states, and its scores of the classes.

        Args:
            hidden (`Tensor` of shape `(B, T, D)` or `(B, D, H, W)`): after the layer.
            mask (`Tensor` of shape `(B, T)`, *optional*): 1 = token or frame, 0 = padding, which is not pooled.

        Returns:
            features (B, D) and logits (B, C); without pooling (B, T, D) and (B, T, C).
        """
        features = self.norm(hidden if self.pooling is None else pool(hidden, self.pooling, mask))
        return features, self.classifier(self.dropout(self.pooler(features)))


class LearningToExit(nn.Module):
    """How wrong an exit is, as BERxiT's module predicts it (Xin et al. 2021, section 3.3): one for all exits.

    Args:
        size (`int`): D, the same at all exits.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Of features (..., D), a number (...) in [0, 1]: 0 of a head that is surely right."""
        return self.linear(features).squeeze(-1).sigmoid()


def width_after(encoder_config: PreTrainedConfig, layer: int) -> int:
    """D of what the layer (counted from 1) hands on; a stage of Swin has merged patches by then, all but the last."""
    fields = vars(encoder_config)
    if "hidden_sizes" in fields:
        return encoder_config.hidden_sizes[layer - 1]
    if "depths" in fields:
        return encoder_config.embed_dim * 2 ** min(layer, num_layers(encoder_config) - 1)
    return hidden_size_of(encoder_config)

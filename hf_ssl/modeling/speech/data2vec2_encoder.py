"""The audio encoder of data2vec 2.0 (Baevski et al. 2022, arXiv:2212.07525), which transformers does not have.

This file stands alone. `save_pretrained` copies it beside the weights, and where hf_ssl is not installed transformers
loads it from there (`AutoModel.from_pretrained(..., trust_remote_code=True)`): it imports torch and transformers only.
"""

# B recordings, S samples, T frames (20 ms), D hidden size, H heads, C sets of positions, P positions of a set

import math
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioAttention,
    Data2VecAudioEncoderLayer,
    Data2VecAudioFeatureEncoder,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs


@strict
class Data2Vec2AudioConfig(PreTrainedConfig):
    """Configuration of the audio encoder of data2vec 2.0; the defaults are BASE.

    LARGE has 24 layers of 1024, 16 heads, 4096 and no LayerDrop: the 8 blocks of its `prenet` and the 16 after it are
    alike.

    Args:
        hidden_size (`int`): D.
        num_hidden_layers (`int`): Transformer blocks.
        num_attention_heads (`int`): H, a divisor of D.
        intermediate_size (`int`): of the feed-forward layers.
        hidden_act (`str`): activation of the feed-forward layers.
        hidden_dropout (`float`): of what enters the first block and of each block's two outputs.
        attention_dropout (`float`): of the attention's weights.
        activation_dropout (`float`): inside the feed-forward layers.
        layerdrop (`float`): probability that a block is left out, in training.
        initializer_range (`float`): standard deviation of fresh linear layers.
        layer_norm_eps (`float`): of every LayerNorm with parameters, those of the CNN aside.
        conv_dim (`list[int]`): channels of the CNN's layers.
        conv_kernel (`list[int]`): their kernels.
        conv_stride (`list[int]`): their strides, in the samples or frames before them.
        conv_bias (`bool`): whether they have a bias.
        feat_extract_activation (`str`): their activation.
        num_conv_pos_embeddings (`int`): layers of the positional convolution.
        conv_pos_kernel_size (`int`): their kernel, in frames.
        num_conv_pos_embedding_groups (`int`): their groups, a divisor of D.

    Raises:
        ValueError: for sizes that do not fit together.
    """

    model_type = "data2vec2-audio"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    layerdrop: float | int = 0.05
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    conv_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_activation: str = "gelu"
    num_conv_pos_embeddings: int = 5
    conv_pos_kernel_size: int = 19
    num_conv_pos_embedding_groups: int = 16

    @property
    def num_feat_extract_layers(self) -> int:
        """Layers of the CNN."""
        return len(self.conv_dim)

    def validate_architecture(self) -> None:
        """Called by `@strict`: refuses sizes that do not fit together."""
        sizes = {name: len(getattr(self, name)) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the CNN's layers are counted differently ({sizes}); give each list one entry a layer.")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {name} {getattr(self, name)}.")


@dataclass
class Data2Vec2AudioOutput(BaseModelOutput):
    """What [`Data2Vec2AudioModel`] returns: a `BaseModelOutput` and the frames that entered the Transformer.

    Args:
        local_features (`Tensor` of shape `(B, T, D)`): the projected output of the CNN, without positions.
    """

    local_features: Tensor | None = None


def init_like_torch(layer: nn.Linear | nn.Conv1d) -> None:
    """PyTorch's own initialisation, U(−1/√n, 1/√n) for n inputs, of the weights that no checkpoint has brought."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(layer.weight[0].numel())
    init.uniform_(layer.bias, -bound, bound)


class Data2Vec2AudioConvLayer(nn.Conv1d):
    """A convolution over time that keeps the length, LayerNorm without parameters, GELU.

    Args:
        in_dim (`int`): features of a frame.
        out_dim (`int`): of a frame of the output.
        kernel_size (`int`): frames.
        groups (`int`): of the convolution.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, groups: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, frames: Tensor, attention_mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """Frames (B, T, D) to (B, T, D'); where the mask (B, T) is false it sees zeros, as it does beyond the ends."""
        if attention_mask is not None:
            frames = frames * attention_mask[..., None]
        convolved = super().forward(frames.transpose(1, 2))[..., : frames.shape[1]]  # even kernels make one too many
        return F.gelu(F.layer_norm(convolved.transpose(1, 2), (self.out_channels,)))


class Data2Vec2AudioPositionalConvEmbedding(nn.Module):
    """Relative positions as a stack of convolutions sees them, added to the frames."""

    def __init__(self, config: Data2Vec2AudioConfig) -> None:
        super().__init__()
        dim, kernel, groups = config.hidden_size, config.conv_pos_kernel_size, config.num_conv_pos_embedding_groups
        self.layers = nn.ModuleList(
            Data2Vec2AudioConvLayer(dim, dim, kernel, groups) for _ in range(config.num_conv_pos_embeddings)
        )

    def forward(self, frames: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        for layer in self.layers:
            frames = layer(frames, attention_mask)
        return frames


class Data2Vec2AudioFeatureProjection(nn.Module):
    """From the channels of the CNN to the Transformer's hidden size."""

    def __init__(self, config: Data2Vec2AudioConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, channels) to (B, T, D)."""
        return self.projection(self.layer_norm(features))


def alibi_slopes(num_heads: int, device: torch.device) -> Tensor:
    """The slope of each head (Press et al. 2021, arXiv:2108.12409): `2^(−8/n), 2^(−16/n) … 2^(−8)` for n heads.

    Where H is no power of two, n is the power of two below it, and the heads beyond n take every other slope of 2n
    heads, as in the authors' code.

    Returns:
        `Tensor` of shape `(H,)`.
    """
    heads = torch.arange(num_heads, device=device)
    n = 2 ** int(math.log2(num_heads))
    return torch.exp2(-8 / n * torch.where(heads < n, heads + 1, heads - n + 0.5))


class Data2Vec2AudioEncoder(nn.Module):
    """Positions and Transformer: everything after the projection, which is what data2vec 2.0's teacher has of its own.

    The blocks are those of transformers' data2vec-audio (post-LN: norm after attention and after the feed-forward
    layer); what is added to their attention's scores is the distance of the two frames times the head's slope
    (ALiBi), times a factor that is learned for each head and that all blocks share.
    """

    def __init__(self, config: Data2Vec2AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_conv_embed = Data2Vec2AudioPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.alibi_scale = nn.Parameter(torch.ones(config.num_attention_heads))
        self.layers = nn.ModuleList(Data2VecAudioEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self,
        local_features: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """Encodes all frames, or some of them as if there were no others.

        Args:
            local_features (`Tensor` of shape `(B, T, D)`): the projected output of the CNN.
            attention_mask (boolean `Tensor` of shape `(B, T)`, *optional*): `True` = frame, `False` = padding.
            positions (`Tensor` of shape `(B, P)`, *optional*): the frames to encode, in any order; −1 fills the rows
                that have fewer than P. The positional convolution sees zeros in place of the others.
            kwargs: of the attention.

        Returns:
            `Tensor` of shape `(B, T, D)` or `(B, P, D)`; what stands for padding and for −1 has no meaning.
        """
        if positions is None:
            hidden = local_features + self.pos_conv_embed(local_features, attention_mask)
            places = torch.arange(local_features.shape[1], device=local_features.device)[None]
            valid = attention_mask
        else:
            seen = _is_in(positions, local_features.shape[1])[..., None]
            hidden = local_features + self.pos_conv_embed(local_features * seen, attention_mask)
            places, valid = positions.clamp(min=0), positions >= 0
            hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = self.dropout(self.layer_norm(hidden))
        bias = self.attention_bias(places, valid, hidden.dtype)

        synchronous = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self)  # every rank runs every block
        for layer in self.layers:
            is_dropped = self.training and self.config.layerdrop > 0 and torch.rand(()) < self.config.layerdrop
            if not is_dropped or synchronous:
                hidden = layer(hidden, bias, **kwargs)
        return hidden

    def attention_bias(self, places: Tensor, valid: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of a query at place i and a key at place j: −slope · scale · |i − j|.

        Args:
            places (`Tensor` of shape `(B, P)`): where in the recording the frames stand.
            valid (boolean `Tensor` of shape `(B, P)`, *optional*): keys with `False` are not attended to.
            dtype (`torch.dtype`): of the result.

        Returns:
            `Tensor` of shape `(B, H, P, P)`.
        """
        distances = (places[:, None, :] - places[:, :, None]).abs()
        slopes = alibi_slopes(len(self.alibi_scale), places.device) * self.alibi_scale.clamp(min=0)
        bias = -slopes[:, None, None] * distances[:, None]
        if valid is not None:
            bias = bias.masked_fill(~valid[:, None, None], torch.finfo(dtype).min)
        return bias.to(dtype)


def _is_in(positions: Tensor, num_frames: int) -> Tensor:
    """Which of T frames are among the positions (B, P): boolean (B, T)."""
    marks = torch.zeros(len(positions), num_frames + 1, dtype=torch.bool, device=positions.device)
    return marks.scatter(1, positions.where(positions >= 0, num_frames), True)[:, :num_frames]


class Data2Vec2AudioModel(PreTrainedModel):
    """The audio encoder of data2vec 2.0: CNN, projection, positional convolution, Transformer with ALiBi.

    Reference: fairseq, `examples/data2vec/models`. Deviations: the frames of a recording do not depend on the padding
    beside it (there, the positional convolution sees the padding's features); the blocks of `prenet` are not told from
    the others, which they equal; the pre-norm form, in which no audio model was published, is left out.
    """

    config: Data2Vec2AudioConfig
    base_model_prefix = "data2vec2_audio"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Data2VecAudioEncoderLayer"]
    _supports_sdpa = True
    _can_record_outputs = {
        "hidden_states": Data2VecAudioEncoderLayer,
        "attentions": OutputRecorder(Data2VecAudioAttention, index=1, layer_name="encoder"),
    }

    def __init__(self, config: Data2Vec2AudioConfig) -> None:
        super().__init__(config)
        self.feature_extractor = Data2VecAudioFeatureEncoder(config)
        self.feature_projection = Data2Vec2AudioFeatureProjection(config)
        self.encoder = Data2Vec2AudioEncoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Layers and not what holds them: transformers passes over custom modules without parameters of their own.
        if isinstance(module, Data2Vec2AudioConvLayer) or module is self.feature_projection.projection:
            init_like_torch(module)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, Data2Vec2AudioEncoder):
            init.ones_(module.alibi_scale)

    @capture_outputs
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Data2Vec2AudioOutput:
        """Encodes waveforms.

        Args:
            input_values (`Tensor` of shape `(B, S)`): waveforms of mean 0 and variance 1.
            attention_mask (`Tensor` of shape `(B, S)`, *optional*): 1 = sample, 0 = padding at the end.
            positions (`Tensor` of shape `(C, P)`, *optional*): sets of frames to encode, each as if there were no
                others; C/B sets for each recording, one after the other. −1 fills sets that have fewer than P.
            kwargs: `output_hidden_states`, `output_attentions` (with `attn_implementation="eager"`), `return_dict`.

        Returns:
            [`Data2Vec2AudioOutput`]: hidden states of shape `(B, T, D)`, or `(C, P, D)` of the given positions.
        """
        local_features = self.feature_projection(self.feature_extractor(input_values).transpose(1, 2))
        frames, mask = local_features, None
        if attention_mask is not None:
            mask = self._get_feature_vector_attention_mask(local_features.shape[1], attention_mask)
        if positions is not None:
            sets = len(positions) // len(frames)
            frames = frames.repeat_interleave(sets, dim=0)
            mask = None if mask is None else mask.repeat_interleave(sets, dim=0)
        hidden = self.encoder(frames, mask, positions, **kwargs)
        return Data2Vec2AudioOutput(last_hidden_state=hidden, local_features=local_features)

    def freeze_feature_encoder(self) -> None:
        """Train the CNN no further."""
        self.feature_extractor._freeze_parameters()

    def _get_feat_extract_output_lengths(self, input_lengths: Any) -> Any:
        """Frames of waveforms of so many samples (`int` or `Tensor`)."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            input_lengths = (input_lengths - kernel) // stride + 1
        return input_lengths

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """Which frames are of the recording, boolean (B, T), from the mask of the samples (B, S)."""
        lengths = self._get_feat_extract_output_lengths(attention_mask.sum(dim=1))
        return torch.arange(feature_vector_length, device=attention_mask.device) < lengths[:, None]


Data2Vec2AudioConfig.register_for_auto_class()
Data2Vec2AudioModel.register_for_auto_class("AutoModel")

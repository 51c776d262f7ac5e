"""The decoder of data2vec 2.0, which is thrown away after the pretraining."""

# N clones of recordings, T frames, R masked ones, V visible ones, D hidden size of the encoder, G of the decoder

import itertools

from torch import Tensor, nn

from hf_ssl.modeling.blocks.positions import put_frames, take_frames
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConvLayer


class Data2Vec2AudioDecoder(nn.Module):
    """Convolutions that fill in what the encoder has not seen, from what it has and from noise in the gaps.

    Args:
        hidden_size (`int`): D.
        dim (`int`): G.
        num_layers (`int`): convolutions.
        kernel_size (`int`): frames that each of them sees.
        groups (`int`): of each of them, a divisor of D and G.
        input_dropout (`float`): of what the encoder has seen.
    """

    def __init__(
        self, hidden_size: int, dim: int, *, num_layers: int, kernel_size: int, groups: int, input_dropout: float
    ) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(
            Data2Vec2AudioConvLayer(in_dim, out_dim, kernel_size, groups)
            for in_dim, out_dim in itertools.pairwise([hidden_size, *[dim] * num_layers])
        )
        self.projection = nn.Linear(dim, hidden_size)

    def forward(
        self, visible: Tensor, visible_positions: Tensor, noise: Tensor, masked_positions: Tensor, is_frame: Tensor
    ) -> Tensor:
        """Predicts the masked frames.

        Args:
            visible (`Tensor` of shape `(N, V, D)`): the encoder's output.
            visible_positions (`Tensor` of shape `(N, V)`): where it stands in the recording.
            noise (`Tensor` of shape `(N, R, D)`): what stands at the masked positions.
            masked_positions (`Tensor` of shape `(N, R)`): of the masked frames.
            is_frame (boolean `Tensor` of shape `(N, T)`): `False` = padding.

        Returns:
            `Tensor` of shape `(N, R, D)`.
        """
        num_frames = is_frame.shape[1]
        seen = put_frames(self.input_dropout(visible), visible_positions, num_frames)
        frames = seen + put_frames(noise.to(seen.dtype), masked_positions, num_frames)  # (N, T, D)
        for layer in self.layers:
            filled = layer(frames, is_frame)  # (N, T, G)
            frames = frames + filled if frames.shape == filled.shape else filled
        return self.projection(take_frames(frames, masked_positions))

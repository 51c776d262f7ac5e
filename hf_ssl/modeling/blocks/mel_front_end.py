"""How encoders that read log-mel frames turn them into frames of their own: what `frames.py` is for waveforms.

Three rates follow each other. A mel frame (10 ms as a rule) holds the bands; one *input* of the encoder is one mel
frame, or several that lie side by side; strided convolutions make fewer frames of the inputs.
"""

# F mel bands, L inputs

import math
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedConfig

from hf_ssl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MelFrontEnd:
    """The front end of an encoder.

    Args:
        input_size (`int`): numbers that one input holds.
        stack (`int`): mel frames that one input holds, one after the other.
        layers (`tuple[tuple[int, int, int], ...]`): kernel, stride and padding (both sides together) of each
            convolution over time, in inputs.
    """

    input_size: int
    stack: int = 1
    layers: tuple[tuple[int, int, int], ...] = ()

    @property
    def num_bands(self) -> int:
        """F, the numbers of one mel frame."""
        return self.input_size // self.stack

    @property
    def stride(self) -> int:
        """Mel frames from one frame of the encoder to the next."""
        return self.stack * math.prod([stride for _, stride, _ in self.layers])

    def num_frames(self, num_inputs: int) -> int:
        """Frames that the encoder makes of L inputs: ⌊(L + padding − kernel) / stride⌋ + 1 a layer, 0 of too few."""
        length = num_inputs
        for kernel, stride, padding in self.layers:
            length = (length + padding - kernel) // stride + 1 if length > 0 else 0
        return max(length, 0)


def mel_front_end(encoder_config: PreTrainedConfig) -> MelFrontEnd:
    """The front end that a config describes.

    Raises:
        InputError: for an encoder that reads something else, or log-mel frames of one fixed length (Whisper, AST).
    """
    if encoder_config.model_type not in FRONT_ENDS:
        raise InputError(
            f"The encoder '{encoder_config.model_type}' is not known to read log-mel frames of any length; choose one "
            f"of: {', '.join(FRONT_ENDS)}."
        )
    return FRONT_ENDS[encoder_config.model_type](encoder_config)


def _wav2vec2_bert(config: PreTrainedConfig) -> MelFrontEnd:
    """Pairs of frames, as its feature extractor makes them; an adapter, if there is one, subsamples after the
    Transformer.
    """
    adapter = (config.adapter_kernel_size, config.adapter_stride, 2 * (config.adapter_kernel_size // 2))
    layers = (adapter,) * config.num_adapter_layers if config.add_adapter else ()
    return MelFrontEnd(input_size=config.feature_projection_input_dim, stack=2, layers=layers)


def _subsampling(padding: Callable[[int, int], int]) -> Callable[[PreTrainedConfig], MelFrontEnd]:
    """Convolutions over single frames that subsample by a power of two; the padding follows from kernel and stride."""

    def front_end(config: PreTrainedConfig) -> MelFrontEnd:
        kernel, stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
        layer = (kernel, stride, padding(kernel, stride))
        return MelFrontEnd(input_size=config.num_mel_bins, layers=(layer,) * int(math.log2(config.subsampling_factor)))

    return front_end


def _lasr(config: PreTrainedConfig) -> MelFrontEnd:
    layer = (config.subsampling_conv_kernel_size, config.subsampling_conv_stride, 0)
    return MelFrontEnd(input_size=config.num_mel_bins, layers=(layer,) * 2)


FRONT_ENDS: dict[str, Callable[[PreTrainedConfig], MelFrontEnd]] = {
    "wav2vec2-bert": _wav2vec2_bert,
    "parakeet_encoder": _subsampling(lambda kernel, stride: 2 * ((kernel - 1) // 2)),
    "nemotron_asr_streaming_encoder": _subsampling(lambda kernel, stride: (kernel - 1) + (stride - 1)),  # causal
    "lasr_encoder": _lasr,
}
"""By `model_type`; what transformers says of it in no common way."""

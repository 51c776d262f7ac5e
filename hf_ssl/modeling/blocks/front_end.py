"""How many frames a speech encoder makes of its inputs, whether those are samples or log-mel frames."""

from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedConfig

from hf_ssl.modeling.blocks.mel_front_end import mel_front_end

Length = TypeVar("Length", int, Tensor)


def frames_of_inputs(encoder_config: PreTrainedConfig, length: Length) -> Length:
    """Frames that an encoder makes of so many inputs: ⌊(L + padding − kernel) / stride⌋ + 1 a convolution.

    Args:
        encoder_config (`PreTrainedConfig`): of the wav2vec 2.0 family, or of an encoder of log-mel frames.
        length (`int` or `Tensor`): L, samples or stacks of mel frames; a tensor stays on its device.

    Returns:
        like `length`: 0 of too few inputs.

    Raises:
        InputError: for an encoder of neither kind.
    """
    if "conv_kernel" in encoder_config.to_dict():
        waveform_layers = zip(encoder_config.conv_kernel, encoder_config.conv_stride, strict=True)
        layers = [(kernel, stride, 0) for kernel, stride in waveform_layers]
    else:
        layers = list(mel_front_end(encoder_config).layers)
    for kernel, stride, padding in layers:
        length = ((length + padding - kernel) // stride + 1) * (length > 0)
    return length * (length > 0)

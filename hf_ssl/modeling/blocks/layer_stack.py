"""The layers of an encoder, one after the other, wherever its architecture keeps them."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError


def layer_stack(encoder: PreTrainedModel) -> nn.ModuleList:
    """The Transformer layers of an encoder, or the stages of a hierarchical one (Swin, ConvNeXt, ResNet), in order.

    ALBERT's list holds the one group of layers that it runs `num_hidden_layers` times.

    Args:
        encoder (`PreTrainedModel`): a bare encoder, such as `AutoModel` makes; of a model with a head, its
            `base_model`.

    Raises:
        InputError: for an encoder whose layers are not to be found.
    """
    name = layer_stack_name(encoder)
    stack = encoder.get_submodule(name)
    assert isinstance(stack, nn.ModuleList)
    return stack


def layer_stack_name(encoder: PreTrainedModel) -> str:
    """The name of the list of layers in the encoder, such as `encoder.layer`.

    Raises:
        InputError: for an encoder whose layers are not to be found.
    """
    config = encoder.config
    fields = vars(config)
    if "depths" in fields:
        length = len(config.depths)
    elif "num_hidden_groups" in fields:
        length = config.num_hidden_groups
    else:
        length = config.num_hidden_layers
    for name, module in encoder.named_modules():
        # A waveform encoder has a list of convolutions, too, and it may be as long.
        if isinstance(module, nn.ModuleList) and len(module) == length and "conv" not in name:
            return name
    raise InputError(
        f"The layers of a {encoder.config.model_type} encoder were not found; use an encoder of transformers that "
        "keeps them in one list."
    )


def num_layers(encoder_config: PreTrainedConfig) -> int:
    """How many layers the encoder runs, one after the other; of a hierarchical one, stages."""
    return len(encoder_config.depths) if "depths" in vars(encoder_config) else encoder_config.num_hidden_layers

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
    length = config.num_hidden_groups if "num_hidden_groups" in fields else num_layers(config)
    # A waveform encoder has a list of convolutions, too, and it may be as long.
    lists = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == length and "conv" not in name
    ]
    # XLM keeps the attentions of its layers in one list, the feed-forward networks in another.
    if lists and not any(name.rpartition(".")[0] == lists[0].rpartition(".")[0] for name in lists[1:]):
        return lists[0]
    raise _no_layers(config)


def num_layers(encoder_config: PreTrainedConfig) -> int:
    """How many layers the encoder runs, one after the other; of a hierarchical one, stages.

    Raises:
        InputError: for an encoder whose config does not say.
    """
    if "depths" in vars(encoder_config):
        return len(encoder_config.depths)
    if not hasattr(encoder_config, "num_hidden_layers"):
        raise _no_layers(encoder_config)
    return encoder_config.num_hidden_layers


def calls_of_group(encoder_config: PreTrainedConfig, group: int) -> int:
    """How often ALBERT runs one of its groups of layers, counted from 0, in a forward pass."""
    num_layers, num_groups = encoder_config.num_hidden_layers, encoder_config.num_hidden_groups
    return sum(int(layer / (num_layers / num_groups)) == group for layer in range(num_layers))


def _no_layers(config: PreTrainedConfig) -> InputError:
    return InputError(
        f"The layers of a {config.model_type} encoder were not found; use an encoder of transformers that keeps them "
        "in one list."
    )

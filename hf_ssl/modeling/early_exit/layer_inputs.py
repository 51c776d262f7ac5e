"""What an encoder's layers are given, seen and changed before they run, without a change of the encoder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.modeling.blocks.layer_stack import layer_stack, num_layers

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Changed: TypeAlias = Arguments | None
"""What a layer gets instead of its arguments; `None`: its arguments."""


@contextmanager
def before_layers(encoder: PreTrainedModel, hook: Callable[[int, Arguments], Changed]) -> Iterator[None]:
    """Calls `hook(depth, arguments)` before each layer, while the context lasts.

    `depth` layers are done by then (those that LayerDrop left out are counted). ALBERT runs the same layers again and
    again: its runs are counted.
    """
    stack = layer_stack(encoder)
    runs_again = len(stack) < num_layers(encoder.config)
    depths = {layer: depth for depth, layer in enumerate(stack)}
    done = 0

    def pre_hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        nonlocal done
        depth = done if runs_again else depths[layer]
        done += 1
        return hook(depth, (args, kwargs))

    handles = [layer.register_forward_pre_hook(pre_hook, with_kwargs=True) for layer in stack]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_states_of(arguments: Arguments) -> Tensor:
    """The hidden states that a layer is given: the first of its arguments."""
    args, kwargs = arguments
    return args[0] if args else next(iter(kwargs.values()))


def run_to_the_end(encoder: PreTrainedModel, layers: list[int], inputs: dict[str, Any]) -> tuple[list[Tensor], Any]:
    """A pass through the whole encoder.

    The hidden states after a layer are what the next one is given, and not what the layer returned: DeBERTa-v2 adds a
    convolution to its first layer's. Where LayerDrop has left out all later ones, they are the encoder's output.

    Args:
        encoder (`PreTrainedModel`): the encoder.
        layers (`list[int]`): numbers of layers, counted from 1, rising, the last layer at their end.
        inputs (`dict[str, Any]`): of the encoder.

    Returns:
        the hidden states after those layers, the last of them the encoder's output; and all that the encoder returned.
    """
    hidden: dict[int, Tensor] = {}

    def keep(depth: int, arguments: Arguments) -> None:
        for layer in layers:
            if layer <= depth and layer not in hidden:
                hidden[layer] = hidden_states_of(arguments)

    with before_layers(encoder, keep):
        outputs = encoder(**inputs)
    return [hidden.get(layer, outputs.last_hidden_state) for layer in layers], outputs

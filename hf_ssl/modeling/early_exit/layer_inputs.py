"""What an encoder's layers are given, seen and changed before they run, without a change of the encoder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack, num_layers

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Changed: TypeAlias = Arguments | None
"""What a layer gets instead of its arguments; `None`: its arguments."""


Reading = TypeVar("Reading")


@contextmanager
def before_layers(encoder: PreTrainedModel, hook: Callable[[int, Arguments], Changed]) -> Iterator[None]:
    """Calls `hook(depth, arguments)` before each layer, while the context lasts.

    `depth` layers are done by then (those that LayerDrop left out are counted). ALBERT runs the same layers again and
    again: its runs are counted.

    Raises:
        InputError: for an encoder that runs its layers past their hooks.
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
        if done == 0 and not encoder.training:  # in training LayerDrop may leave out all of them
            raise InputError(
                f"The layers of a {encoder.config.model_type} encoder are not called as modules, so that nothing can "
                "leave between them; use another encoder."
            )
    finally:
        for handle in handles:
            handle.remove()


def hidden_states_of(arguments: Arguments) -> Tensor:
    """The hidden states that a layer is given: the first of its arguments."""
    args, kwargs = arguments
    return args[0] if args else next(iter(kwargs.values()))


def run_to_the_end(
    encoder: PreTrainedModel, layers: list[int], inputs: dict[str, Any], read: Callable[[int, Tensor], Reading]
) -> tuple[list[Reading], Any]:
    """A pass through the whole encoder, whose hidden states are read after some layers.

    The hidden states after a layer are what the next one is given, and not what the layer returned: DeBERTa-v2 adds a
    convolution to its first layer's. Where LayerDrop has left out all later ones, they are the encoder's output.

    Without gradient they are read as soon as they are there, and not kept: the memory of a layer serves the next one.
    With it they are read in the end, outside of what gradient checkpointing runs twice.

    Args:
        encoder (`PreTrainedModel`): the encoder.
        layers (`list[int]`): numbers of layers, counted from 1, rising, the last layer at their end.
        inputs (`dict[str, Any]`): of the encoder.
        read (`Callable[[int, Tensor], Reading]`): of the place in `layers` and the hidden states.

    Returns:
        what was read after those layers, after the last of them of the encoder's output; and all that the encoder
        returned.
    """
    at_once = not torch.is_grad_enabled()
    found: dict[int, Any] = {}

    def keep(depth: int, arguments: Arguments) -> None:
        for place, layer in enumerate(layers):
            if layer <= depth and place not in found:
                hidden = hidden_states_of(arguments)
                found[place] = read(place, hidden) if at_once else hidden

    with before_layers(encoder, keep):
        outputs = encoder(**inputs)
    readings = []
    for place in range(len(layers)):
        is_read = at_once and place in found
        readings.append(found[place] if is_read else read(place, found.get(place, outputs.last_hidden_state)))
    return readings, outputs

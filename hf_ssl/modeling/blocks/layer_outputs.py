"""What the parts of a model return on the way, without a change of the model."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """A list to which the modules append what they return, in the order in which they run, while the context lasts."""
    outputs: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append(output)

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

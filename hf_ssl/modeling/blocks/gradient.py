"""Scaling the gradient that reaches a part of a model, without touching that part."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """The same values; the gradient that flows back through them is multiplied by `scale`."""
    return _ScaleGradient.apply(tensor, scale)


@contextmanager
def scaled_output(module: nn.Module, scale: float) -> Iterator[list[Tensor]]:
    """Lets the output of `module` pass through [`scale_gradient`], and appends it to the list that it yields.

    A hook that lives for one forward pass: the module, its code and its checkpoint stay what they were.
    """
    outputs: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        outputs.append(scale_gradient(output, scale))
        return outputs[-1]

    handle = module.register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def without_gradient(module: nn.Module) -> Iterator[None]:
    """Lets a module compute its output without recording how, so that no gradient reaches it nor what is before it.

    Hooks that live for one forward pass; activations are not kept, and the module stays in its mode (dropout goes on).
    """
    recording = torch.no_grad()
    handles = [
        module.register_forward_pre_hook(lambda module, args: recording.__enter__()),
        # `always_call`: what was before is restored even if the pass fails.
        module.register_forward_hook(
            lambda module, args, output: recording.__exit__(None, None, None), always_call=True
        ),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Rows and sums of all processes, with their gradient."""

# B rows of this process, R processes

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among them; 0 without `torch.distributed`."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_with_gradient(rows: Tensor) -> Tensor:
    """The rows of every process, in the order of the ranks.

    The gradient that reaches `rows` is the sum over all processes of their gradients with respect to these rows. So
    where each process's loss is a mean over its own B rows, `DistributedDataParallel`'s mean over processes is the
    gradient of the mean over all R * B rows, as if one process had held them all.

    Args:
        rows (`Tensor` of shape `(B, ...)`): of the same shape on every process.

    Returns:
        `Tensor` of shape `(R * B, ...)`; `rows` itself on one process.
    """
    return rows if num_processes() == 1 else _Gather.apply(rows)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor.

    The gradient that reaches `tensor` is the sum over all processes of their gradients with respect to the sum.

    Args:
        tensor (`Tensor`): of the same shape on every process.

    Returns:
        `Tensor`: of the same shape; `tensor` itself on one process.
    """
    return tensor if num_processes() == 1 else _Sum.apply(tensor)


class _Gather(torch.autograd.Function):
    """all_gather, whose transpose is: sum the gradient over processes, keep one's own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(num_processes())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # all_reduce writes in place
        dist.all_reduce(gradient)
        return gradient.chunk(num_processes())[process_rank()]


class _Sum(torch.autograd.Function):
    """all_reduce, which is its own transpose."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)  # all_reduce writes in place
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient

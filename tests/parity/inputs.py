"""Inputs that any framework can make again."""

import math

import torch
from torch import Tensor


def wave(*shape: int, phase: float) -> Tensor:
    """sin(0.7 n + phase), n counting the elements; computed in fp64, rounded to fp32."""
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.7 * count + phase).reshape(shape).float()


def chirp(*shape: int, phase: float) -> Tensor:
    """sin(0.37 n² + phase): unlike [`wave`], whose matrices have rank 2, of full rank."""
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * count.square() + phase).reshape(shape).float()

"""Teachers: copies of a student that follow it as an exponential moving average, without gradient."""

import copy
import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def make_teacher(student: nn.Module) -> nn.Module:
    """A frozen fp32 copy of the student.

    Call it, or [`copy_weights`], again once the student's weights have been loaded.
    """
    return freeze(copy.deepcopy(student).float())


def freeze(teacher: nn.Module, *, batch_statistics: bool = False) -> nn.Module:
    """The same teacher, which drops nothing out and takes no gradient.

    A model calls it in its own `train`, which would turn the teacher's dropout on. `from_pretrained` ends there, too:
    the parameters that it has put in place of those of `__init__` would take a gradient.

    Args:
        teacher (`nn.Module`): changed in place.
        batch_statistics (`bool`): its batch norms normalise by the batch they are given, and keep running statistics
            of their own, as those of the momentum encoders of MoCo and BYOL do.
    """
    teacher.eval().requires_grad_(False)
    for module in teacher.modules():
        if batch_statistics and isinstance(module, _BatchNorm):
            module.train()
    return teacher


@torch.no_grad()
def copy_weights(teacher: nn.Module, student: nn.Module) -> None:
    """Make the teacher equal to the student again."""
    teacher.load_state_dict(student.state_dict())


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float, *, copy_buffers: bool = True) -> None:
    """Move the teacher towards the student: `θ' ← τ θ' + (1 − τ) θ`, in the teacher's precision.

    Args:
        teacher (`nn.Module`): changed in place; of the same structure as the student.
        student (`nn.Module`): what it follows.
        decay (`float`): τ in [0, 1]: 1 leaves the teacher as it is.
        copy_buffers (`bool`): the teacher's buffers become the student's; `False` for one that keeps running
            statistics of its own.
    """
    ours: list[torch.Tensor] = list(teacher.parameters())
    theirs = [p.detach().to(q.dtype) for p, q in zip(student.parameters(), ours, strict=True)]
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    if copy_buffers:
        for ours_buffer, buffer in zip(teacher.buffers(), student.buffers(), strict=True):
            ours_buffer.copy_(buffer)


def linear_decay(progress: float, start: float, end: float, share: float) -> float:
    """The decay at some point of the training: linear from `start` to `end` over its first part, then constant.

    Args:
        progress (`float`): share of the training that is done, in [0, 1].
        start (`float`): τ at the beginning.
        end (`float`): τ from `share` on.
        share (`float`): of the training over which τ rises, in [0, 1].
    """
    return end if progress >= share else start + (end - start) * progress / share


def cosine_decay(progress: float, start: float, end: float = 1.0) -> float:
    """The decay at some point of the training: `end − (end − start) (cos(π progress) + 1) / 2` (BYOL, section 3.2).

    Args:
        progress (`float`): share of the training that is done, in [0, 1].
        start (`float`): τ at the beginning.
        end (`float`): τ at the end.
    """
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2

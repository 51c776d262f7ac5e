"""Compares the weights that runs of `train_tiny.py` leave behind."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def weights(folder: Path) -> dict[str, Tensor]:
    """The final weights of a run."""
    return load_file(folder / "model.safetensors")


def assert_same_step(start: dict[str, Tensor], left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Two SGD steps from `start` with learning rate 1 are two gradients: they differ by at most 1e-5, relative."""
    names = [name for name in left if left[name].is_floating_point()]
    first = torch.cat([(left[name] - start[name]).flatten() for name in names])
    second = torch.cat([(right[name] - start[name]).flatten() for name in names])
    assert first.norm() > 0
    assert (first - second).norm() <= 1e-5 * first.norm()


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []

"""Our losses of image objectives against lightly's, on the same tensors: values, and time forward and backward.

    python -m venv losses && losses/bin/pip install . && losses/bin/pip install --no-deps lightly==1.6.0
    OMP_NUM_THREADS=1 losses/bin/python benchmarks/image_losses.py [--rows 256 1024] [--turns 10]

lightly's losses are `lightly.loss`, with its memory banks and `update_momentum`. They do not need torchvision, but
what stands beside them in lightly imports it; where it is missing, empty names stand in for it while lightly is
imported.

A loss begins at the outputs of the heads' perceptrons. Products with prototypes, a queue's or a centre's update and
what SSLOutput reports of collapse are in the time of either side where it does that. Values "agree" where their
relative difference is at most 1e-5; where the definitions differ, the table says how, and what the values are after
that is accounted for. The sides alternate, one turn each, and the median of the ratios of their process times is
printed (`time.process_time`: of all threads; with OMP_NUM_THREADS=1 on an idle machine it equals elapsed time): below
1 ours is faster.

The last table is the step of a teacher: `blocks/teacher.follow` against lightly's `update_momentum`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
import transformers
from image_loss_pairs import PAIRS, Pair
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel, set_seed

from hf_ssl.modeling.blocks.teacher import follow, make_teacher

TOLERANCE = 1e-5
DECAY = 0.996
INSTALL = "lightly is not installed; run: pip install --no-deps lightly==1.6.0"


class Timing(NamedTuple):
    """Milliseconds of either side, medians, and the median of the ratios of neighbouring turns."""

    ours: float
    theirs: float
    ratio: float


def alternate(ours: Callable[[], object], theirs: Callable[[], object], turns: int) -> Timing:
    """Times two sides in turns, after one that does not count; each turn repeats its side for at least 50 ms.

    Which comes first changes from turn to turn: the second is up to a tenth faster.
    """
    _seconds(theirs, 1)
    repeats = max(1, round(0.05 / max(_seconds(ours, 1), 1e-4)))
    pairs = []
    for turn in range(turns):
        sides = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        taken = [_seconds(side, repeats) for side in sides]
        pairs.append(tuple(taken) if turn % 2 == 0 else tuple(reversed(taken)))
    ours_ms, theirs_ms = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    return Timing(ours_ms, theirs_ms, statistics.median(a / b for a, b in pairs))


def _seconds(side: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        side()
    return (time.process_time() - start) / repeats


def gradient_of(tensor: Tensor) -> Tensor:
    """Its gradient, which is taken away."""
    gradient, tensor.grad = tensor.grad, None
    assert gradient is not None
    return gradient


def compare_losses(name: str, pair: Pair, num_rows: int, dim: int, turns: int) -> str:
    """A row of the table: the values of both sides, from the same state, and their times."""
    set_seed(0)
    case = pair.make(num_rows, dim)
    value = case.ours()
    value.backward()
    case.after()
    gradient = gradient_of(case.inputs[0])
    their_value = case.theirs()
    their_value.backward()
    their_gradient = gradient_of(case.inputs[0])
    expected = pair.accounted_for(their_value.item())
    difference = abs(value.item() - expected) / abs(expected)
    scale = pair.accounted_for(1.0) - pair.accounted_for(0.0)
    of_gradient = ((gradient - scale * their_gradient).norm() / gradient.norm()).item()

    def step(side: Callable[[], Tensor], after: Callable[[], None] = lambda: None) -> None:
        for tensor in case.inputs:
            tensor.grad = None
        side().backward()
        after()

    timing = alternate(lambda: step(case.ours, case.after), lambda: step(case.theirs), turns)
    verdict = "agree" if difference <= TOLERANCE else f"differ by {difference:.1e}"
    values = f"{value.item():.6f} | {their_value.item():.6f} | {verdict} | {of_gradient:.0e}"
    return (
        f"| {name} | {num_rows} x {dim} | {values} "
        f"| {timing.ours:.2f} | {timing.theirs:.2f} | {timing.ratio:.2f} | {pair.differs} |"
    )


def compare_teachers(update_momentum: Callable[..., None], turns: int) -> list[str]:
    """Rows of the table of moving averages."""
    small = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    students: dict[str, nn.Module] = {
        "ResNet-50": ResNetModel(ResNetConfig()),
        "ViT-S/16": ViTModel(small, add_pooling_layer=False),
    }
    rows = []
    for name, student in students.items():
        teacher, theirs = make_teacher(student), make_teacher(student)
        for parameter in student.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
        follow(teacher, student, DECAY, copy_buffers=False)
        update_momentum(student, theirs, DECAY)
        largest = max(
            (a - b).abs().max().item() for a, b in zip(teacher.parameters(), theirs.parameters(), strict=True)
        )
        timing = alternate(
            lambda s=student, t=teacher: follow(t, s, DECAY, copy_buffers=False),  # type: ignore[misc]
            lambda s=student, t=theirs: update_momentum(s, t, DECAY),  # type: ignore[misc]
            turns,
        )
        rows.append(f"| {name} | {largest:.1e} | {timing.ours:.2f} | {timing.theirs:.2f} | {timing.ratio:.2f} |")
    return rows


class Absent(ModuleType):
    """A module of which every name can be imported, and nothing used."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or type(name, (), {})


def import_lightly() -> None:
    """Import the parts of lightly that are compared; where torchvision is missing, with empty names in its place."""
    parts = ("torchvision", "torchvision.ops", "torchvision.models", "torchvision.models.vision_transformer")
    is_absent = find_spec("torchvision") is None
    if is_absent:
        print("torchvision is not installed: while lightly is imported, empty names stand in for it")
        sys.modules.update({name: Absent(name) for name in parts})
    for name in ("lightly.loss", "lightly.models.utils", "lightly.models.modules.nn_memory_bank"):
        import_module(name)
    if is_absent:
        for name in parts:
            del sys.modules[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rows", nargs="+", type=int, default=[256])
    parser.add_argument("--turns", type=int, default=10)
    args = parser.parse_args()
    if find_spec("lightly") is None:
        sys.exit(INSTALL)
    import_lightly()
    lightly = sys.modules["lightly"]
    print(
        f"lightly {lightly.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} threads, {args.turns} turns\n"
    )
    print("| loss | N x D | ours | lightly's | values | gradients | ms | lightly's | ratio | definitions |")
    print("|---|---|---:|---:|---|---:|---:|---:|---:|---|")
    for name in args.losses:
        pair = PAIRS[name]
        for num_rows in args.rows:
            for dim in pair.dims:
                print(compare_losses(name, pair, num_rows, dim, args.turns), flush=True)
    print("\n| teacher | largest difference | ms | lightly's | ratio |\n|---|---:|---:|---:|---:|")
    print("\n".join(compare_teachers(sys.modules["lightly.models.utils"].update_momentum, args.turns)))


if __name__ == "__main__":
    main()

"""BEST-RQ's targets: the argmax of one matrix product against the nearest of all codes by distance.

    python benchmarks/best_rq_targets.py [--frames 500] [--codes 8192] [--threads 1] [--repeats 3]

Both give the code of N stacks of log-mel frames. The distance form, as SpeechBrain's quantiser has it, holds the
difference of every projected frame to every code, (N, V, H); each form runs in a process of its own, whose greatest
memory above that of its inputs is read from the system. Prints ratios of median times and of memory; exits with 1 if a
code differs, or the product is less than 5 times as fast or in need of more than a fifth of the memory.

A code may differ where two codes are equally near but for rounding; then both distances are compared.
"""

import argparse
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ssl.modeling.blocks.random_projection import RandomProjectionQuantizer

MEGABYTE = 2**20
Codes = Callable[[RandomProjectionQuantizer, Tensor], Tensor]


def matrix_product(quantizer: RandomProjectionQuantizer, vectors: Tensor) -> Tensor:
    return quantizer(vectors)[:, 0]


def distances(quantizer: RandomProjectionQuantizer, vectors: Tensor) -> Tensor:
    projected = F.normalize(vectors @ quantizer.projection[0], dim=-1)
    differences = quantizer.codebook[0] - projected[:, None]  # (N, V, H)
    return differences.norm(dim=-1).argmin(dim=-1)


FORMS: dict[str, Codes] = {"distances": distances, "matrix product": matrix_product}


def make(args: argparse.Namespace) -> tuple[RandomProjectionQuantizer, Tensor]:
    torch.set_num_threads(args.threads)
    quantizer = RandomProjectionQuantizer(args.size, args.dimensions, args.codes, num_codebooks=1, seed=0)
    return quantizer, torch.randn(args.frames, args.size, generator=torch.Generator().manual_seed(0))


def peak_memory() -> int:
    """Bytes that this process has held at most (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@torch.no_grad()
def measure(form: str, args: argparse.Namespace) -> tuple[list[int], float, int]:
    """Of one form: codes, median seconds and bytes above what the process had held before."""
    quantizer, vectors = make(args)
    FORMS[form](quantizer, vectors[:2])  # loads what is loaded once
    before = peak_memory()
    times = []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        codes = FORMS[form](quantizer, vectors)
        times.append(time.perf_counter() - start)
    return codes.tolist(), statistics.median(times[1:]), max(peak_memory() - before, 1)  # the first warms up


def different_codes(args: argparse.Namespace, left: list[int], right: list[int]) -> int:
    """In how many frames the two codes differ, and their distances by more than rounding."""
    quantizer, vectors = make(args)
    projected = F.normalize(vectors.double() @ quantizer.projection[0].double(), dim=-1)
    near, far = ((quantizer.codebook[0].double()[codes] - projected).norm(dim=-1) for codes in (left, right))
    return int(((near - far).abs() > 1e-6).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=500, help="N, masked frames of a batch")
    parser.add_argument("--codes", type=int, default=8192, help="V")
    parser.add_argument("--size", type=int, default=320, help="numbers of a stack of mel frames")
    parser.add_argument("--dimensions", type=int, default=16, help="H, of a code")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        slow, fast = pool.starmap(measure, [(form, args) for form in FORMS], chunksize=1)
    num_different = different_codes(args, slow[0], fast[0])
    faster, smaller = slow[1] / fast[1], slow[2] / fast[2]
    print(f"torch {torch.__version__}, CPU, {args.threads} thread(s)")
    print(f"N={args.frames} V={args.codes} H={args.dimensions}; {num_different} codes differ\n")
    print("| | distances | matrix product | ratio |\n|---|---|---|---|")
    print(f"| time (ms) | {1e3 * slow[1]:.1f} | {1e3 * fast[1]:.2f} | {faster:.0f}× |")
    print(f"| memory (MB) | {slow[2] / MEGABYTE:.0f} | {fast[2] / MEGABYTE:.1f} | {smaller:.0f}× |")
    return int(num_different > 0 or faster < 5 or smaller < 5)


if __name__ == "__main__":
    sys.exit(main())

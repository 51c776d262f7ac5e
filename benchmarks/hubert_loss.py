"""The classification loss over a codebook: one matrix product of unit vectors against the broadcast contrastive form.

    python benchmarks/hubert_loss.py [--frames 1000] [--clusters 504] [--threads 1] [--repeats 5]

Both compute the mean cross entropy of cosine / temperature for S frames and V clusters. The contrastive form puts the
right codeword before all V, broadcasts every frame against the (V + 1, S, D) table and hides the positive's copy among
the negatives. Prints ratios of median times of one run; exits with 1 if the values differ by more than 1e-5 (relative)
or a ratio is below 50.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from hf_ssl.modeling.blocks.codebook import cosine_logits

TEMPERATURE = 0.1
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def matrix_product(frames: Tensor, codebook: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(cosine_logits(frames, codebook, TEMPERATURE), targets)


def broadcast_contrast(frames: Tensor, codebook: Tensor, targets: Tensor) -> Tensor:
    negatives = codebook[:, None].expand(-1, len(frames), -1)  # (V, S, D)
    candidates = torch.cat([codebook[targets][None], negatives])  # (V + 1, S, D), the positive first
    logits = torch.cosine_similarity(frames[None], candidates, dim=-1) / TEMPERATURE  # (V + 1, S)
    is_positive = torch.arange(len(codebook), device=frames.device)[:, None] == targets
    logits = torch.cat([logits[:1], logits[1:].masked_fill(is_positive, -torch.inf)])
    return F.cross_entropy(logits.T, torch.zeros_like(targets))


def seconds(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor], repeats: int, *, backward: bool) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        value = loss(*inputs)
        if backward:
            value.backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first warms up


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1000, help="S, masked frames")
    parser.add_argument("--clusters", type=int, default=504, help="V")
    parser.add_argument("--dimensions", type=int, default=256, help="D of the comparison")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inputs = (
        torch.randn(args.frames, args.dimensions, requires_grad=True),
        torch.rand(args.clusters, args.dimensions, requires_grad=True),
        torch.randint(args.clusters, (args.frames,)),
    )
    value, reference = matrix_product(*inputs).item(), broadcast_contrast(*inputs).item()
    difference = abs(value - reference) / reference
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, CPU, {args.threads} thread(s)")
    print(f"S={args.frames} V={args.clusters} D={args.dimensions}; loss {value:.7f} / {reference:.7f}, ", end="")
    print(f"relative difference {difference:.1e}\n")
    print("| pass | broadcast contrast (ms) | matrix product (ms) | ratio |\n|---|---|---|---|")
    ratios = []
    for name, backward in (("forward", False), ("forward + backward", True)):
        slow = seconds(broadcast_contrast, inputs, args.repeats, backward=backward)
        fast = seconds(matrix_product, inputs, args.repeats, backward=backward)
        ratios.append(slow / fast)
        print(f"| {name} | {1e3 * slow:.1f} | {1e3 * fast:.2f} | {slow / fast:.0f}× |")
    return int(difference > 1e-5 or min(ratios) < 50)


if __name__ == "__main__":
    sys.exit(main())

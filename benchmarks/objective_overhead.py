"""What an objective costs beyond its encoder: one step of the pretraining model over the passes that it needs anyway.

    OMP_NUM_THREADS=1 python benchmarks/objective_overhead.py [--objectives bert hubert ...] [--repeats 7]

A step is forward and backward of the objective on a batch that its `draw_inputs` made, and its `after_optimizer_step`
(a teacher's move, a queue's rows). It is compared with the passes that the method needs by definition: forward and
backward of the mean of the bare encoder's output on the same input, and for images what `overhead_cases_vision.py`
says (a teacher's forward passes, MAE's decoder ...); of data2vec for speech the teacher's pass counts as overhead.

The two alternate, and the ratio is taken pair by pair: its median, smallest and largest are printed. On a CPU it is
one of process time (`time.process_time`, all threads together), which a busy machine disturbs less; with
OMP_NUM_THREADS=1 on an idle machine it equals elapsed time. On an accelerator it is one of elapsed time.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import overhead_cases_sequences
import overhead_cases_vision
import torch
import transformers
from overhead_case import Case
from torch import Tensor
from transformers import set_seed

CASES: dict[str, Callable[[], Case]] = {**overhead_cases_vision.CASES, **overhead_cases_sequences.CASES}
TARGETS = {**overhead_cases_vision.TARGETS, **overhead_cases_sequences.TARGETS}


def seconds(step: Callable[[], Tensor], model: torch.nn.Module, device: torch.device) -> float:
    """Of one forward and backward pass, with the accelerator's work done."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    model.zero_grad()
    start = clock()
    step().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(name: str, repeats: int, device: torch.device) -> tuple[list[float], float]:
    """The ratios of objective to bare passes, pair by pair, and the median of the latter in seconds."""
    set_seed(0)
    model, batch, bare, passes = CASES[name]()
    model = model.to(device).train()
    batch, bare = ({key: value.to(device) for key, value in part.items()} for part in (batch, bare))

    def objective() -> Tensor:
        model.after_optimizer_step(0.5)
        return model(**batch).loss

    def bare_passes() -> Tensor:
        return passes(model, bare)

    for step in (objective, bare_passes):
        seconds(step, model, device)
    pairs = [(seconds(objective, model, device), seconds(bare_passes, model, device)) for _ in range(repeats)]
    return [ours / theirs for ours, theirs in pairs], statistics.median(theirs for _, theirs in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{device}, {torch.get_num_threads()} threads, {args.repeats} pairs\n"
    )
    print("| objective | step over bare passes (median) | smallest | largest | target | bare passes |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in args.objectives:
        ratios, bare_seconds = measure(name, args.repeats, device)
        print(
            f"| {name} | {statistics.median(ratios):.3f} | {min(ratios):.3f} | {max(ratios):.3f} | {TARGETS[name]} "
            f"| {bare_seconds:.2f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()

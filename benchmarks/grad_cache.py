"""What cached gradients save in memory and cost in time: a step of SimCLR with and without `cache_chunk_size`.

    python benchmarks/grad_cache.py [--images 128] [--chunks 64 16 4] [--repeats 3] [--device cpu]

The encoder is a ViT of 6 layers of 192 on 64 patches. A step is forward and backward of a batch. Two memories are
printed: the bytes that autograd keeps of the forward pass, and by how much the process grew at its largest over what
it had before the steps (on a GPU, what its allocator gave out). Each size of chunk has two processes of its own: one
for memory, which gives freed blocks back to the system at once, so that its size is what is in use, and one for time,
that of the processor, the least of the repeats.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import torch
import transformers
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import ViTConfig, set_seed

from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.trainers.cached_gradients import cached_gradients

MIB = 2**20
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # of glibc


def make(device: torch.device) -> SimCLRForPreTraining:
    set_seed(0)
    sizes = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
    return SimCLRForPreTraining(SimCLRConfig(encoder_config=ViTConfig(**sizes, image_size=32, patch_size=4))).to(
        device
    )


def encoding(model: SimCLRForPreTraining, chunk: int | None) -> AbstractContextManager:
    return nullcontext() if chunk is None else cached_gradients(model, chunk)


def bytes_kept(model: SimCLRForPreTraining, pixels: Tensor, chunk: int | None) -> int:
    """Of all tensors that autograd saves in the forward pass, each storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), encoding(model, chunk):
        loss = model(pixels).loss
    del loss
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def step(model: SimCLRForPreTraining, pixels: Tensor, chunk: int | None) -> float:
    """Seconds of a step: of the processor, or of the wall where the work is done elsewhere."""
    clock = time.process_time if pixels.device.type == "cpu" else time.perf_counter
    model.zero_grad()
    start = clock()
    with encoding(model, chunk):
        loss = model(pixels).loss
    loss.backward()
    if pixels.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(device: torch.device) -> int:
    """The largest that this process ever was, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(images: int, chunk: int | None, repeats: int, device: torch.device) -> dict[str, float]:
    model = make(device).train()
    step(model, torch.randn(2, 2, 3, 32, 32, device=device), None)  # what is loaded on first use
    pixels = torch.randn(images, 2, 3, 32, 32, device=device)
    before = peak(device)
    seconds = min(step(model, pixels, chunk) for _ in range(repeats))
    grown = peak(device) - before
    return {"kept": bytes_kept(model, pixels, chunk) / MIB, "grown": grown / MIB, "seconds": seconds}


def in_process(options: list[str], environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 16, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one size of chunk, in this process; 0: none
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(measure(args.images, args.only or None, args.repeats, torch.device(args.device))))
        return
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{args.device}, {torch.get_num_threads()} threads, {args.images} images of two views\n"
    )
    print("| images a chunk | kept for the backward pass, MiB | peak, MiB | peak over whole | time over whole |")
    print("|---:|---:|---:|---:|---:|")
    whole: dict[str, float] = {}
    for chunk in [0, *args.chunks]:
        options = ["--images", str(args.images), "--device", args.device, "--only", str(chunk)]
        memory = in_process([*options, "--repeats", "1"], GIVE_BACK)
        speed = in_process([*options, "--repeats", str(args.repeats)], {})
        result = {**memory, "seconds": speed["seconds"]}
        whole = whole or result
        print(
            f"| {chunk or 'all'} | {result['kept']:.1f} | {result['grown']:.0f} | "
            f"{result['grown'] / whole['grown']:.3f} | {result['seconds'] / whole['seconds']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

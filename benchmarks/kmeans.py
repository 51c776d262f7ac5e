"""K-means for discrete units: assignment and fit against scikit-learn, and the memory of the fit.

    python benchmarks/kmeans.py [--threads 1] [--hours 1] [--repeats 3]

1. Assignment: scikit-learn's `predict`, one utterance after the other, as published pipelines call it, against
   `assign` over everything; on the CPU and, if there is one, on a GPU. Prints the ratio of the median times and the
   share of frames that get the same unit (the rest are ties in fp32). On a CPU both are one matrix product, so the
   ratio is what the calls cost; it is on a GPU that the difference is made.
2. Fit: `fit` against `MiniBatchKMeans` with HuBERT's settings on the same frames: ratio of times and of inertias.
3. Memory (Linux): peak of a process that fits 8, 16 and 32 shards from disk, less that of one that only imports.

Frames are random walks in 39 (MFCC, K = 100) and 768 (hidden layer, K = 500) dimensions.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import torch
from safetensors.torch import save_file
from sklearn.cluster import MiniBatchKMeans

from hf_ssl.trainers.kmeans import assign, fit, squared_distance

HUBERT = {"batch_size": 10_000, "n_init": 20, "max_no_improvement": 100, "tol": 0.0, "reassignment_ratio": 0.0}
SHARD_FRAMES = 5_000

MEMORY = """
import re, sys
import torch
from safetensors.torch import load_file
from hf_ssl.trainers.kmeans import fit

class OnDisk:
    def __init__(self, files): self.files = files
    def __len__(self): return len(self.files)
    def __getitem__(self, number): return load_file(self.files[number])["features"]

torch.set_num_threads(int(sys.argv[1]))
if files := sys.argv[2:]:
    fit(OnDisk(files), 100, seed=0, num_tries=1, max_passes=2)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])  # ru_maxrss would be the parent's
"""


def utterances(num_frames: int, rate: int, size: int) -> list[torch.Tensor]:
    """Random walks of 1 to 15 s around random speakers."""
    generator = torch.Generator().manual_seed(0)
    rows: list[torch.Tensor] = []
    while sum(map(len, rows)) < num_frames:
        length = int(torch.randint(rate, 15 * rate, (), generator=generator))
        steps = torch.randn(length, size, generator=generator)
        rows.append(torch.randn(size, generator=generator) + steps + 0.3 * steps.cumsum(0))
    return rows


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first warms up


def compare_assignment(name: str, rows: list[torch.Tensor], num_clusters: int, repeats: int) -> None:
    frames, arrays = torch.cat(rows), [row.numpy() for row in rows]
    theirs = MiniBatchKMeans(num_clusters, n_init=1, max_iter=1, random_state=0).fit(frames.numpy())
    loop = median_seconds(lambda: [theirs.predict(array) for array in arrays], repeats)
    expected = np.concatenate([theirs.predict(array) for array in arrays])
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        centroids = torch.from_numpy(theirs.cluster_centers_).float().to(device)
        seconds = median_seconds(lambda: assign(frames, centroids), repeats)  # noqa: B023 - called right here
        same = (assign(frames, centroids).cpu().numpy() == expected).mean()
        name_of_row = f"assign, {name}, {device}"
        print(f"| {name_of_row} | {loop:.3f} s | {seconds:.3f} s | {loop / seconds:.1f} | {same:.3%} of units equal |")


def compare_fit(rows: list[torch.Tensor], num_clusters: int) -> None:
    frames = torch.cat(rows)
    start = time.perf_counter()
    theirs = MiniBatchKMeans(num_clusters, random_state=0, **HUBERT).fit(frames.numpy())
    middle = time.perf_counter()
    ours = fit(frames.split(SHARD_FRAMES), num_clusters, seed=0)
    their_time, our_time = middle - start, time.perf_counter() - middle
    codebooks = (ours.centroids, torch.from_numpy(theirs.cluster_centers_).float())
    our_inertia, their_inertia = (squared_distance(frames, c, assign(frames, c)) for c in codebooks)
    print(
        f"| fit, MFCC, cpu | {their_time:.1f} s | {our_time:.1f} s | {their_time / our_time:.1f} "
        f"| inertia {our_inertia / their_inertia:.4f} of theirs |"
    )


def peak_megabytes(files: list[str], threads: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(threads), *files], capture_output=True, check=True, text=True
    )
    return int(done.stdout) / 1024


def measure_memory(threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(32):
            shard = torch.randn(SHARD_FRAMES, 768, generator=torch.Generator().manual_seed(number))
            files.append(str(Path(folder) / f"{number}.safetensors"))
            save_file({"features": shard}, files[-1])
        idle = peak_megabytes([], threads)
        for count in (8, 16, 32):
            on_disk = count * SHARD_FRAMES * 768 * 4 / 2**20
            print(f"| {count} | {on_disk:.0f} MB | {peak_megabytes(files[:count], threads) - idle:.0f} MB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hours", type=float, default=1.0, help="of MFCCs; a tenth of it of hidden layers")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, {args.threads} threads")
    print("\n| | scikit-learn | hf_ssl | ratio | |\n| --- | ---: | ---: | ---: | --- |")
    cepstra = utterances(int(args.hours * 3600 * 100), rate=100, size=39)
    compare_assignment("MFCC", cepstra, 100, args.repeats)
    hidden = utterances(int(args.hours * 360 * 50), rate=50, size=768)
    compare_assignment("hidden layer", hidden, 500, args.repeats)
    compare_fit(cepstra, 100)
    print("\n| shards of 768 dimensions | on disk | peak memory of the fit |\n| ---: | ---: | ---: |")
    measure_memory(args.threads)


if __name__ == "__main__":
    main()

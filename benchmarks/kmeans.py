"""K-means for discrete units: assignment and fit against scikit-learn, and the memory of the fit.

    python benchmarks/kmeans.py [--threads 1] [--hours 1] [--repeats 3]

1. Assignment: scikit-learn's `predict`, one utterance of about 300 frames after the other, as published pipelines call
   it, against `assign` over everything; on the CPU and, if there is one, on a GPU. Prints the ratio of the median
   times; how much of the time of `assign` the bare matrix product of frames and centroids takes, which bounds every
   way to do it; and the share of frames that get the same unit (the rest are ties in fp32). On a CPU scikit-learn's
   `predict` is the same matrix product, so that the ratio is what its calls cost: much for 39 dimensions, little for
   768. It is on a GPU that the difference is made.
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

from hf_ssl.modeling.blocks.codebook import DISTANCES_AT_ONCE
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


def utterances(num_frames: int, size: int) -> list[torch.Tensor]:
    """Random walks of 200 to 400 frames around random speakers."""
    generator = torch.Generator().manual_seed(0)
    rows: list[torch.Tensor] = []
    while sum(map(len, rows)) < num_frames:
        length = int(torch.randint(200, 400, (), generator=generator))
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
        on_device = frames.to(device).split(DISTANCES_AT_ONCE // num_clusters)
        product = median_seconds(lambda: [part @ centroids.T for part in on_device], repeats)  # noqa: B023
        same = (assign(frames, centroids).cpu().numpy() == expected).mean()
        facts = f"product {product / seconds:.0%} of ours; {same:.3%} of units equal"
        print(f"| assign, {name}, {device} | {loop:.3f} s | {seconds:.3f} s | {loop / seconds:.1f} | {facts} |")


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
    parser.add_argument("--hours", type=float, default=1.0, help="of frames of 39 dimensions; a tenth of it of 768")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, {args.threads} threads")
    print("\n| | scikit-learn | hf_ssl | ratio | |\n| --- | ---: | ---: | ---: | --- |")
    cepstra = utterances(int(args.hours * 3600 * 100), size=39)
    hidden = utterances(int(args.hours * 360 * 50), size=768)
    for num_clusters in (100, 500):
        compare_assignment(f"39 dimensions, {num_clusters} clusters", cepstra, num_clusters, args.repeats)
        compare_assignment(f"768 dimensions, {num_clusters} clusters", hidden, num_clusters, args.repeats)
    compare_fit(cepstra, 100)
    print("\n| shards of 768 dimensions | on disk | peak memory of the fit |\n| ---: | ---: | ---: |")
    measure_memory(args.threads)


if __name__ == "__main__":
    main()

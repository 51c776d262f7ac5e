"""What batches of like lengths waste: padding (fine-tuning) and what is cropped off (pretraining).

    python benchmarks/padding.py

A batch of recordings is padded to its longest one, or cropped to its shortest. The first share is that of the padded
samples, `1 - Σ len / Σ B max len`; the second that of the speech which is lost, `1 - Σ B min len / Σ len`. Compared
are the batches of `EpochBatchSampler` under a budget of seconds (`training.max_batch_length`), the same budget filled
in random order, and as many recordings a batch as that gives on average, by transformers' `group_by_length` and at
random. Means over 5 epochs.

Lengths: those of the embedded speech, cropped at 6 s as its recipes do; and of LibriSpeech by the percentiles that
icefall prints of its manifests (k2-fsa/icefall, egs/librispeech/ASR/local/display_manifest_statistics.py; the training
splits with speeds of 0.9, 1 and 1.1), between which lengths are taken as uniform. LibriSpeech itself is not here.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
import transformers
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.data.usable import load_usable

PERCENTILES = [0, 0.1, 0.5, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100]
LIBRISPEECH = {
    "train-clean-100": [1.3, 1.9, 2.2, 2.5, 4.2, 6.4, 11.4, 13.8, 15.3, 16.7, 17.3, 18.1, 18.4, 18.8, 27.2],
    "train-other-500": [0.8, 1.7, 2.1, 2.3, 3.5, 5.0, 9.8, 13.4, 15.1, 16.5, 17.2, 18.1, 18.4, 18.9, 31.0],
    "dev-clean": [1.4, 1.6, 1.8, 1.9, 2.4, 2.7, 3.8, 5.9, 9.3, 13.3, 16.4, 23.8, 28.5, 32.3, 32.6],
}
"""Seconds at those percentiles."""

NUM_EPOCHS = 5

Batches = list[np.ndarray]


def like_librispeech(split: str, number: int) -> np.ndarray:
    draws = np.random.default_rng(0).uniform(0, 100, number)
    return np.interp(draws, PERCENTILES, LIBRISPEECH[split])


def embedded_speech() -> np.ndarray:
    train, _, _ = load_usable(SpeechDataArguments(path="sample:speech", sampling_rate=8000), "speech", 0)
    return np.array(train["length"], dtype=np.float64)


def bucketed(lengths: np.ndarray, budget: float) -> Iterator[Batches]:
    sampler = EpochBatchSampler(len(lengths), 1, seed=0, lengths=lengths, max_batch_length=budget)
    for epoch in range(NUM_EPOCHS):
        sampler.set_epoch(epoch)
        yield [np.array([key.index for key in batch]) for batch in sampler]


def filled_at_random(lengths: np.ndarray, budget: float) -> Iterator[Batches]:
    for epoch in range(NUM_EPOCHS):
        batches: Batches = []
        batch: list[int] = []
        for item in np.random.default_rng(epoch).permutation(len(lengths)):
            if (len(batch) + 1) * lengths[[*batch, item]].max() > budget:
                batches.append(np.array(batch))
                batch = []
            batch.append(int(item))
        yield batches


def of_one_size(lengths: np.ndarray, size: int, grouped: bool) -> Iterator[Batches]:
    full = len(lengths) // size * size
    for epoch in range(NUM_EPOCHS):
        generator = torch.Generator().manual_seed(epoch)
        if grouped:
            order = list(LengthGroupedSampler(size, lengths=lengths.tolist(), generator=generator))
        else:
            order = torch.randperm(len(lengths), generator=generator).tolist()
        yield list(np.array(order[:full]).reshape(-1, size))


def shares(lengths: np.ndarray, epochs: Iterator[Batches]) -> tuple[float, float, float]:
    """Padded samples of all, lost speech of all, and recordings a batch."""
    rows = []
    for batches in epochs:
        total = sum(lengths[batch].sum() for batch in batches)
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        cropped = sum(len(batch) * lengths[batch].min() for batch in batches)
        rows.append((1 - total / padded, 1 - cropped / total, np.mean([len(batch) for batch in batches])))
    padding, lost, size = np.mean(rows, axis=0)
    return padding, lost, size


def report(name: str, lengths: np.ndarray, budget: float) -> None:
    padding, lost, size = shares(lengths, bucketed(lengths, budget))
    others = {
        f"random order, {budget:g} s a batch": filled_at_random(lengths, budget),
        f"group_by_length, {round(size)} a batch": of_one_size(lengths, round(size), grouped=True),
        f"random order, {round(size)} a batch": of_one_size(lengths, round(size), grouped=False),
    }
    print(f"| {name} | **EpochBatchSampler, {budget:g} s a batch** | {padding:.1%} | {lost:.1%} | |")
    for kind, epochs in others.items():
        of_other = shares(lengths, epochs)
        print(f"| | {kind} | {of_other[0]:.1%} | {of_other[1]:.1%} | {of_other[0] / padding:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=28_539, help="of a LibriSpeech-like training split")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}\n")
    print("| lengths | batches | padding | cropped off | its padding over EpochBatchSampler's |")
    print("| --- | --- | ---: | ---: | ---: |")
    embedded = embedded_speech()
    report("embedded speech, at most 6 s", embedded.clip(max=6.0), 30.0)
    report("embedded speech, uncut", embedded, 80.0)
    for split in LIBRISPEECH:
        number = args.recordings if split.startswith("train") else 2_703
        lengths = like_librispeech(split, number)
        report(f"like {split}, at most 15.6 s", lengths.clip(max=15.6), 87.5)
        report(f"like {split}, uncut", lengths, 200.0)


if __name__ == "__main__":
    main()

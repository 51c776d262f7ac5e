"""How fast views are made: at 32 pixels in images a second, at 224 against albumentations.

    python benchmarks/augmentation.py [--turns 9] [--size 224] [--workers 2]

First part: SimCLR's two views (preset `simclr_small`) of the embedded emoji at 32 pixels, from the files in memory to
normalised fp32 batches, as a training makes them: a data loader with `--workers` processes decodes, crops and resizes;
what is left is done to whole batches, in the main process ("device") or in the workers ("worker"). By the clock that
means something on an idle machine only; of processor time, on a busy one too.

Second part: SimCLR's two views (preset `simclr`) of decoded pictures of 500 x 375 pixels at `--size`, to a normalised
fp32 batch (B, 2, 3, S, S), on one core, beside albumentations, where that is installed; it is not needed otherwise:

    pip install albumentations

The two alternate, and the ratio of processor times is taken pair by pair: its median, smallest and largest are
printed. The operations and their probabilities are the same on both sides. What differs: we resize with antialiasing,
their cubic interpolation (OpenCV's) has none; our colours and blur are calculated in fp32, theirs in 8 bits, with hue
in 180 steps.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import PIL
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.augmentation import augmentation, draw_views
from hf_ssl.data.cropping import crop_boxes, crop_views
from hf_ssl.data.images import prepare_images
from hf_ssl.data.photometric_transform import PhotometricTransform, photometric_parameters
from hf_ssl.data.seeding import item_generator

BATCH_SIZE = 128
NUM_PICTURES = 16


def emoji_per_second(augment_on: str, workers: int, turns: int) -> tuple[list[float], list[float]]:
    """Images a second of some passes over the embedded emoji, by the clock and of processor time, workers included."""
    args = ImageDataArguments(path="sample:emoji", image_size=32, augmentation="simclr_small", augment_on=augment_on)
    data = prepare_images(args, seed=0, encoder=None)
    loader = DataLoader(
        data.train, BATCH_SIZE, collate_fn=data.collator, num_workers=workers, persistent_workers=workers > 0
    )
    by_clock, by_processor = [], []
    for turn in range(turns + 1):
        clock, processor = time.perf_counter(), processor_seconds()
        num_images = 0
        for batch in loader:
            views = batch if data.batch_transform is None else data.batch_transform(batch)
            num_images += len(views["pixel_values"])
        if turn > 0:  # the first one starts the workers
            by_clock.append(num_images / (time.perf_counter() - clock))
            by_processor.append(num_images / (processor_seconds() - processor))
    return by_clock, by_processor


def processor_seconds() -> float:
    """Of this process and its workers."""
    this = psutil.Process()
    return sum(process.cpu_times().user + process.cpu_times().system for process in (this, *this.children()))


def pictures() -> list[Image.Image]:
    """Smooth colours with some noise, as large as ImageNet's typical photograph."""
    random = np.random.default_rng(0)
    coarse = [Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)) for _ in range(NUM_PICTURES)]
    smooth = [np.asarray(image.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16) for image in coarse]
    noisy = [image + random.integers(-8, 9, image.shape, dtype=np.int16) for image in smooth]
    return [Image.fromarray(image.clip(0, 255).astype(np.uint8)) for image in noisy]


def ours(images: list[Image.Image], size: int) -> Callable[[int], Tensor]:
    """The views of a turn, made as the collator and the transform make them."""
    views = augmentation("simclr")
    transform = PhotometricTransform(views, [0.5] * 3, [0.5] * 3)

    def make(turn: int) -> Tensor:
        draws = draw_views(2, [item_generator(0, turn, index) for index in range(len(images))])
        boxes = crop_boxes(views, draws, [image.size for image in images])
        crops = crop_views(images, boxes, draws["flip"][..., 0] < 0.5, size)
        return transform({"pixel_values": crops, "augmentation": photometric_parameters(views, draws)})["pixel_values"]

    return make


def albumentations_side(images: list[Image.Image], size: int) -> tuple[Callable[[int], Tensor], str]:
    """The same views by albumentations, and the versions of what makes them."""
    import albumentations
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)
    kernel = 2 * (size // 10 // 2) + 1
    transform = albumentations.Compose(
        [
            albumentations.RandomResizedCrop((size, size), scale=(0.08, 1.0), interpolation=cv2.INTER_CUBIC),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            albumentations.ToGray(p=0.2),
            albumentations.GaussianBlur(blur_limit=(kernel, kernel), sigma_limit=(0.1, 2.0), p=0.5),
            albumentations.Normalize([0.5] * 3, [0.5] * 3),
            ToTensorV2(),
        ],
        seed=0,
    )
    arrays = [np.asarray(image) for image in images]

    def make(turn: int) -> Tensor:
        views = [torch.stack([transform(image=array)["image"] for _ in range(2)]) for array in arrays]
        return torch.stack(views)

    return make, f"albumentations {albumentations.__version__}, OpenCV {cv2.__version__}"


def seconds_of(make: Callable[[int], Tensor], turn: int) -> float:
    """Of processor time, which other programs on the machine disturb less than the clock's."""
    start = time.process_time()
    make(turn)
    return time.process_time() - start


def compare(size: int, turns: int) -> None:
    """Print the ratio of the two sides' times."""
    images = pictures()
    own = ours(images, size)
    if find_spec("albumentations") is None:
        seconds = statistics.median(seconds_of(own, turn) for turn in range(turns))
        print(
            f"{size} px: {1e3 * seconds / len(images):.2f} ms an image of two views; albumentations is not installed"
        )
        return
    other, versions = albumentations_side(images, size)
    assert own(0).shape == other(0).shape == (NUM_PICTURES, 2, 3, size, size)
    pairs = [(seconds_of(own, turn), seconds_of(other, turn)) for turn in range(1, turns + 1)]
    ratios = [mine / theirs for mine, theirs in pairs]
    mine, theirs = (1e3 * statistics.median(side) / len(images) for side in zip(*pairs, strict=True))
    print(
        f"{size} px: {mine:.2f} ms an image of two views, {versions}: {theirs:.2f} ms; ratio of processor times "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), target at most 1"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Pillow {PIL.__version__}, {os.cpu_count()} cores ({platform.machine()})")
    for augment_on in ("device", "worker"):
        rates, of_processor = emoji_per_second(augment_on, args.workers, args.turns)
        print(
            f"32 px, {args.workers} workers, photometric part on {augment_on}: median {statistics.median(rates):,.0f} "
            f"images/s ({min(rates):,.0f} to {max(rates):,.0f}), two views each; target 2,000; "
            f"{statistics.median(of_processor):,.0f} a second of one core's time"
        )
    compare(args.size, args.turns)


if __name__ == "__main__":
    main()

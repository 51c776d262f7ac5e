"""What the tests of the clustering objectives share: a few training images, all of them in one batch."""

import torch

NUM_ITEMS = 12


def items(*shape, seed=1):
    return torch.randn(NUM_ITEMS, *shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class OneBatch:
    """[`OverItems`] over one batch, which notes how it was called."""

    def __init__(self, pixel_values):
        self.pixel_values, self.calls = pixel_values, []

    def __call__(self, compute, *, augmented):
        self.calls.append(augmented)
        return compute({"pixel_values": self.pixel_values})

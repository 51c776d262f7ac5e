"""Randomness is an input: every random draw comes from a generator that is known by the item it is for."""

import numpy as np
import torch


def item_generator(seed: int, epoch: int, index: int, copy: int = 0) -> torch.Generator:
    """The generator of one item in one epoch of one run.

    It depends on nothing else: not on the batch, the worker, the rank or what was drawn before. That is what makes a
    resumed run equal to an uninterrupted one.

    Args:
        seed (`int`): of the run, non-negative.
        epoch (`int`): non-negative.
        index (`int`): of the item in its data set, non-negative.
        copy (`int`): of the item in its epoch, non-negative, where items are drawn more than once.

    Returns:
        `torch.Generator`: on the CPU.
    """
    state = np.random.SeedSequence((seed, epoch, index, copy)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))

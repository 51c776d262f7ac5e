"""Permutations that are as different from each other as can be."""

# K permutations of T tiles

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache
def permutation_set(num_permutations: int, num_tiles: int, seed: int) -> Tensor:
    """A set of permutations with a large average Hamming distance (Noroozi & Favaro 2016, algorithm 1).

    The first is drawn; then, again and again, of all permutations the one that is farthest on average from those in
    the set. Of equally far ones it is the first in lexicographic order.

    Args:
        num_permutations (`int`): K, at most T!.
        num_tiles (`int`): T, at most 9, since all of the T! permutations are looked at.
        seed (`int`): of the first.

    Returns:
        `Tensor` of shape `(K, T)`, int64. The result is kept for the next call: do not write to it.
    """
    candidates = all_permutations(num_tiles)  # (T, T!)
    farthest = int(np.random.default_rng(seed).integers(candidates.shape[1]))
    # How many tiles have the same place as in a permutation of the set: the fewer, the farther on average.
    agreements = np.zeros(candidates.shape[1], dtype=np.int32)
    chosen = []
    for _ in range(num_permutations):
        chosen.append(farthest)
        for places, place in zip(candidates, candidates[:, farthest], strict=True):
            agreements += places == place
        agreements[farthest] = np.iinfo(np.int32).max // 2  # no second time
        farthest = int(agreements.argmin())
    return torch.from_numpy(candidates[:, chosen].T.astype(np.int64))


@lru_cache(maxsize=1)
def all_permutations(num_tiles: int) -> np.ndarray:
    """The T! permutations of 0 … T − 1 in lexicographic order, one a column: (T, T!), uint8."""
    permutations = np.zeros((1, 1), dtype=np.uint8)
    for size in range(2, num_tiles + 1):
        # with each first tile the permutations of the others, which are renumbered past the gap that it leaves
        rest = permutations[:, None, :] + (permutations[:, None, :] >= np.arange(size, dtype=np.uint8)[:, None])
        first = np.broadcast_to(np.arange(size, dtype=np.uint8)[:, None], rest.shape[1:])
        permutations = np.concatenate([first[None], rest]).reshape(size, -1)
    return permutations

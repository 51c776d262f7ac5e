"""Which items of data without a validation split are held out for one: always the same ones."""

import hashlib
from collections.abc import Sequence

HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 10_000  # about: as many are enough for a validation loss


def name_hash(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name, and is evenly distributed over names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]) / 2**56


def held_out(names: Sequence[str]) -> list[bool]:
    """Chooses about one item in ten (about 10,000 at most) by the hash of its name.

    An item therefore stays on its side when others are added or removed. At least one item is held out, and at least
    one is not, if there are two.
    """
    if len(names) < 2:
        return [False] * len(names)
    hashes = [name_hash(name) for name in names]
    order = sorted(hashes)
    share = min(HELD_OUT_SHARE, MAX_HELD_OUT / len(names))
    limit = min(max(share, order[0]), order[-2])
    return [value <= limit for value in hashes]

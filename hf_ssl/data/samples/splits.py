"""Fixed splits that keep what belongs together together. Nothing here is random: order comes from SHA-256 of names."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

from hf_ssl.data.holdout import name_hash


def connected_groups(items: Sequence[Iterable[Hashable]]) -> list[int]:
    """Numbers the groups of items that share a property, directly or through other items.

    Args:
        items: the properties of each item, e.g. its sentence and its recording's key.

    Returns:
        the group of each item, numbered by first appearance.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for index, properties in enumerate(items):
        for item_property in properties:
            parent[root(("property", item_property))] = root(("item", index))
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(("item", index)), len(numbers)) for index in range(len(items))]


def assign_splits(strata: Mapping[str, str], share: float) -> dict[str, str]:
    """Gives each name a split so that every stratum is divided in the same proportion.

    Args:
        strata: the stratum (a class, say) of each name.
        share: of validation and of test each, in (0, 0.5); rounded, but at least one name where a stratum has three.

    Returns:
        `"train"`, `"validation"` or `"test"` for each name.
    """
    splits = {}
    for stratum in sorted(set(strata.values())):
        names = sorted((name for name in strata if strata[name] == stratum), key=name_hash)
        count = max(round(share * len(names)), 1 if len(names) >= 3 else 0)
        for rank, name in enumerate(names):
            splits[name] = "test" if rank < count else "validation" if rank < 2 * count else "train"
    return splits

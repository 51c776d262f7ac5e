"""What the units of a split are worth: how far frames are from their centroids, how many are used, what they tell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.evaluation.clustering import cluster_purity, contingency, perplexity, pnmi, purity


@dataclass(frozen=True)
class Reference:
    """The labels that units are compared with.

    Args:
        num_labels (`int`): how many different ones there are.
        labels (`dict[str, list[Tensor]]`): per split, of each recording: (1,) for one label, or (L,) for labels evenly
            spread over it.
    """

    num_labels: int
    labels: dict[str, list[Tensor]]


def read_reference(splits: Mapping[str, Dataset], column: str) -> Reference:
    """Reads the labels in a column of every split.

    Args:
        splits (`Mapping[str, Dataset]`): the recordings.
        column (`str`): of strings or integers, or of lists of them.

    Raises:
        InputError: if a split lacks the column, or a recording a label.
    """
    rows: dict[str, list[list[Any]]] = {}
    for name, split in splits.items():
        if column not in split.column_names:
            raise unknown_name(f"column of labels in split {name}", column, split.column_names)
        rows[name] = [value if isinstance(value, list) else [value] for value in split[column]]
    for name, values in rows.items():
        empty = [row for row, labels in enumerate(values) if not labels or None in labels]
        if empty:
            raise InputError(
                f"Recording {empty[0]} of split {name} has no label in column {column!r} ({len(empty)} such); choose "
                "another reference."
            )
    known = sorted({label for values in rows.values() for labels in values for label in labels})
    number = {label: i for i, label in enumerate(known)}
    labels = {
        name: [torch.tensor([number[label] for label in labels]) for labels in values] for name, values in rows.items()
    }
    return Reference(len(known), labels)


class Tally:
    """Counts what the units of a split are worth, part by part.

    Args:
        num_clusters (`int`): how many units there are.
        reference ([`Reference`], *optional*): labels to compare them with.
        split (`str`): which of its splits.
    """

    def __init__(self, num_clusters: int, reference: Reference | None, split: str) -> None:
        self.labels = None if reference is None else reference.labels[split]
        num_labels = 1 if reference is None else reference.num_labels
        self.table = torch.zeros(num_clusters, num_labels, dtype=torch.int64)
        self.num_recordings, self.squared_distance = 0, 0.0

    def add(self, rows: Sequence[int], units: Sequence[Tensor], squared_distance: float) -> None:
        """Counts some recordings.

        Args:
            rows (`Sequence[int]`): their numbers in the split.
            units (`Sequence[Tensor]`): of each recording, (T,).
            squared_distance (`float`): summed over their frames.
        """
        one_label = torch.zeros(1, dtype=torch.int64)
        labels = [
            label_of_frames(one_label if self.labels is None else self.labels[row], len(frames))
            for row, frames in zip(rows, units, strict=True)
        ]
        self.table += contingency(torch.cat(list(units)), torch.cat(labels), *self.table.shape)
        self.num_recordings += len(rows)
        self.squared_distance += squared_distance

    def measures(self) -> dict[str, Any]:
        """The numbers of what was counted, see [`hf_ssl.evaluation.clustering`].

        Returns:
            `dict`: `num_recordings`, `num_frames`, `inertia` (mean squared distance), `perplexity`, `num_unused` and,
                with labels, `purity`, `cluster_purity` and `pnmi` (`None` where the split has one label only).
        """
        counts, num_frames = self.table.sum(dim=1), int(self.table.sum())
        measures: dict[str, Any] = {
            "num_recordings": self.num_recordings,
            "num_frames": num_frames,
            "inertia": self.squared_distance / num_frames,
            "perplexity": perplexity(counts),
            "num_unused": int((counts == 0).sum()),
        }
        if self.labels is not None:
            of_labels = {"purity": purity, "cluster_purity": cluster_purity, "pnmi": pnmi}
            values = {name: measure(self.table) for name, measure in of_labels.items()}
            measures |= {name: None if math.isnan(value) else value for name, value in values.items()}
        return measures


def label_of_frames(labels: Tensor, num_frames: int) -> Tensor:
    """Spreads labels evenly over frames, (L,) to (T,): each frame gets the label at its middle."""
    middles = (torch.arange(num_frames, dtype=torch.float64) + 0.5) / num_frames
    return labels[(middles * len(labels)).long()]

"""What a fairseq checkpoint has and its counterpart has no place for: two files beside it, for the way back.

`fairseq.json` holds the settings, `fairseq.safetensors` the weights that were set aside.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_ssl.hub.conversion.architectures import Weights
from hf_ssl.hub.conversion.dictionary import Dictionary

SETTINGS, WEIGHTS = "fairseq.json", "fairseq.safetensors"


@dataclass(frozen=True)
class Sidecar:
    """What has no place in a converted checkpoint.

    Args:
        settings (`dict`): fairseq's.
        flat (`bool`): whether they are the older `args`.
        num_updates (`int`): that the checkpoint has had; they decide temperature and decay.
        dictionaries (`dict[str, list[tuple[str, int]]]`): of labels, by the extension of their files (`ltr`, `km`):
            symbols with their counts.
        weights (`dict[str, Tensor]`): by fairseq's names.
    """

    settings: dict[str, Any]
    flat: bool
    num_updates: int
    dictionaries: dict[str, Dictionary]
    weights: Weights

    def write(self, folder: Path) -> None:
        """Write the files into the folder of the converted checkpoint."""
        fields = {name: value for name, value in vars(self).items() if name != "weights"}
        (folder / SETTINGS).write_text(json.dumps(fields, indent=1), encoding="utf-8")
        if self.weights:
            save_file(contiguous(self.weights), folder / WEIGHTS)


def read_sidecar(folder: Path) -> Sidecar | None:
    """What was set aside when the folder was converted; `None` if it never came from fairseq."""
    if not (folder / SETTINGS).is_file():
        return None
    fields = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    dictionaries = fields["dictionaries"].items()
    return Sidecar(
        settings=fields["settings"],
        flat=fields["flat"],
        num_updates=fields["num_updates"],
        dictionaries={label: [(symbol, count) for symbol, count in rows] for label, rows in dictionaries},
        weights=load_file(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {},
    )


def contiguous(weights: Weights) -> Weights:
    """The weights as safetensors takes them: each in memory of its own."""
    return {name: weight.detach().clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}

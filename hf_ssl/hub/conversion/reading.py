"""Read a fairseq checkpoint: weights and settings, never code."""

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.inert import Inert, plain, stand_ins
from hf_ssl.hub.conversion.teacher import EMA


@dataclass(frozen=True)
class FairseqCheckpoint:
    """A checkpoint as fairseq's trainer wrote it.

    Args:
        weights (`dict[str, Tensor]`): by name; those of the nested teacher as `_ema.<name>`.
        settings (`dict`): fairseq's `cfg` with one dict a section; or its older `args`, where all stand side by side.
        flat (`bool`): whether the settings are `args`.
        dictionary (`list[tuple[str, int]]`, *optional*): symbols with their counts, where the task's state holds one
            dictionary of targets (letters, or HuBERT's clusters), without the four special ones.
        num_updates (`int`): that it was trained for.
        left_out (`tuple[str, ...]`): what else there is, e.g. the optimiser's state.
    """

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    flat: bool
    dictionary: list[tuple[str, int]] | None
    num_updates: int
    left_out: tuple[str, ...]


def read_checkpoint(path: str | Path) -> FairseqCheckpoint:
    """Read a fairseq checkpoint, of any age.

    Raises:
        InputError: for a file that is no checkpoint, is damaged, or pickles anything but tensors, plain values and
            the settings' known classes; it names what.
    """
    state = load_inert(Path(path))
    found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise InputError(
            f"{path} is no checkpoint of fairseq: it holds {found}, not 'model' with 'cfg' or 'args'; give a .pt that "
            "fairseq's trainer saved."
        )
    settings = state.get("cfg") or state.get("args")
    if settings is None:
        raise InputError(
            f"{path} holds weights without settings (neither 'cfg' nor 'args'); only a checkpoint of fairseq's "
            "trainer says what architecture its weights are of."
        )
    left_out = [name for name, part in state.items() if name not in ("model", "cfg", "args", "task_state") and part]
    return FairseqCheckpoint(
        weights=_flat_weights(path, state["model"]),
        settings=plain(settings),
        flat=not state.get("cfg"),
        dictionary=_dictionary(state.get("task_state") or {}),
        num_updates=_num_updates(state.get("optimizer_history") or []),
        left_out=tuple(left_out),
    )


def load_inert(path: Path) -> Any:
    """Unpickle with [`Inert`] stand-ins for the known classes; nothing else than tensors can be created."""
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a checkpoint (.pt, .pth, .ckpt ...).")
    try:
        with torch.serialization.safe_globals(stand_ins()):
            # Mapped into memory, the optimiser's state is never read; files before PyTorch 1.6 are no zip archives.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise _unreadable(path, error) from error
        raise InputError(
            f"{path} pickles {refused[1]}, which no checkpoint of the kinds that are converted needs; nothing of it "
            "was run, and it is not converted."
        ) from error
    except Exception as error:  # what damaged bytes make an unpickler raise is open
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(f"{path} cannot be read as a checkpoint ({reason}); is it complete, and one that PyTorch saved?")


def _flat_weights(path: str | Path, model: dict[str, Any]) -> dict[str, Tensor]:
    nested = {f"{EMA}.{name}": weight for name, weight in model.get(EMA, {}).items()}
    weights = {name: weight for name, weight in model.items() if name != EMA} | nested
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise InputError(
                f"{name} in {path} is a {type(weight).__name__}, not a tensor; is it a model that fairseq trained?"
            )
    return weights


def _num_updates(history: list[dict[str, Any]]) -> int:
    return int(history[-1].get("num_updates", 0)) if history else 0


def _dictionary(task_state: dict[str, Any]) -> list[tuple[str, int]] | None:
    dictionaries = task_state.get("dictionaries") or [task_state.get("target_dictionary")]
    if len(dictionaries) != 1 or not isinstance(dictionaries[0], Inert):
        return None
    state = dictionaries[0].state
    return list(zip(state["symbols"], state["count"], strict=True))[state["nspecial"] :]

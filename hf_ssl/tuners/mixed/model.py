"""Many tasks on one base: a batch whose rows name different adapters, computed in one pass."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.tuners.fingerprint import fingerprint
from hf_ssl.tuners.mixed.base import check_same_base, load_base
from hf_ssl.tuners.mixed.layers import LowRank, Whole
from hf_ssl.tuners.mixed.pieces import pieces_of
from hf_ssl.tuners.mixed.places import MixedLayer, Piece, install, uninstall
from hf_ssl.tuners.mixed.rows import BASE, Rows, computing, current_rows
from hf_ssl.tuners.mixed.stored_adapter import StoredAdapter, read_stored

EITHER = {LowRank.kind, Whole.kind}
"""What one layer can be mixed of."""


@dataclass(frozen=True)
class MixedOutput:
    """What each row's adapter says.

    Args:
        logits (`tuple[Tensor | None, ...]`): one a row, `(C,)` of its adapter's classes, or `(T, C)` of a model for
            tokens; `None` for a row of the bare base.
        label_names (`tuple[tuple[str, ...] | None, ...]`): one a row, the names of the `C` classes.
        last_hidden_state (`Tensor`, `(B, T, D)`; of some image encoders `(B, D, H, W)`): the encoder's output; of a
            row of the bare base, the bare encoder's.
    """

    logits: tuple[Tensor | None, ...]
    label_names: tuple[tuple[str, ...] | None, ...]
    last_hidden_state: Tensor

    @property
    def labels(self) -> tuple[Any, ...]:
        """The name of each row's likeliest class, or those of its tokens; `None` for a row of the bare base."""
        return tuple(
            None if logits is None or names is None else _named(logits.argmax(dim=-1).tolist(), names)
            for logits, names in zip(self.logits, self.label_names, strict=True)
        )


def _named(index: Any, names: Sequence[str]) -> Any:
    return [names[one] for one in index] if isinstance(index, list) else names[index]


class MixedAdapters(nn.Module):
    """An encoder with several adapters and their heads, of which each row of a batch names one.

        model = MixedAdapters.load(AdapterRegistry("adapters"))
        output = model(**inputs, adapters=["spam", None, "topic"])
        output.labels  # ("spam", None, "sports")

    Each layer holds its adapters' weights stacked and takes each row's by a gather, so the number of operations does
    not depend on the number of adapters. Equal to running each row by itself, up to rounding. For inference alone: the
    weights are not trained here. Adapters are plain LoRA in linear layers (any ranks, scalings and layers) and
    bottleneck adapters of every variant, side by side, with heads of linear layers and layer normalisations (any
    numbers of classes); all of one class of model.

    Args:
        model (`PreTrainedModel`): a classifier with a head for one class, in evaluation mode; it is changed.
        needed (`Collection[str]`): parameters that every adapter must bring, such as the head's.
    """

    def __init__(self, model: PreTrainedModel, needed: Collection[str]) -> None:
        super().__init__()
        self.model = model.eval()
        self._fingerprint = fingerprint(model.base_model)
        self._needed = needed
        self._adapters: list[StoredAdapter] = []
        self._layers: dict[tuple[str, str], MixedLayer] = {}
        self._places: dict[str, Collection[tuple[str, str]]] = {}  # of each adapter, those of its own pieces
        self.model.base_model.register_forward_hook(_keep_hidden_state)

    @classmethod
    def load(
        cls, folders: Mapping[str, Path], names: Sequence[str] | None = None, encoder: str | Path | None = None
    ) -> Self:
        """Load adapters and the encoder that they share.

        Args:
            folders (`Mapping[str, Path]`): folders of adapters by name: an [`AdapterRegistry`] or any dictionary.
            names (`Sequence[str]`, *optional*): which of them; by default all.
            encoder (`str` or `Path`, *optional*): where the encoder is now, if it was moved.

        Returns:
            the model in fp32 on the CPU, in evaluation mode; `.to(...)` moves it.

        Raises:
            InputError: for an unknown name, an adapter that is not whole or cannot be mixed, an encoder that is not
                there or not theirs.
        """
        chosen = list(dict.fromkeys(folders if names is None else names))
        if not chosen:
            raise InputError("There is no adapter to load; add one to the registry, or name one.")
        for name in chosen:
            if name not in folders:
                raise unknown_name("adapter", name, folders)
        adapters = [read_stored(name, Path(folders[name])) for name in chosen]
        check_same_base(adapters)
        mixed = cls(*load_base(adapters[0], encoder))
        for adapter in adapters:
            mixed._append(adapter, mixed._check(adapter))
        return mixed

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are loaded."""
        return tuple(adapter.name for adapter in self._adapters)

    def label_names(self, name: str) -> tuple[str, ...]:
        """The classes of an adapter."""
        return self._adapters[self._slot(name) - 1].label_names

    def add(self, name: str, folder: str | Path) -> None:
        """Load one more adapter; the outputs of the others stay the same bits.

        Args:
            name (`str`): what rows shall call it.
            folder (`str` or `Path`): where it lies, e.g. `registry[name]`.

        Raises:
            InputError: for a name that is taken, or an adapter that cannot be loaded; nothing has changed then.
        """
        if name in self.names:
            raise InputError(f"There is an adapter {name!r} already; reload it, or choose another name.")
        adapter = read_stored(name, Path(folder))
        self._append(adapter, self._check(adapter))

    def remove(self, name: str) -> None:
        """Forget an adapter; the outputs of the others stay the same bits."""
        slot = self._slot(name)
        del self._adapters[slot - 1], self._places[name]
        for layer in self._layers.values():
            layer.drop(slot)
        used = self._places_of_others(name)
        for place in [place for place in self._layers if place not in used]:
            uninstall(self.model, place[0], self._layers.pop(place))

    def reload(self, name: str) -> None:
        """Read an adapter anew from its folder, e.g. after it was trained further; the others stay as they are.

        Raises:
            InputError: for an adapter that cannot be loaded; the one that was loaded stays then.
        """
        adapter = read_stored(name, self._adapters[self._slot(name) - 1].folder)
        pieces = self._check(adapter)
        self.remove(name)
        self._append(adapter, pieces)

    def forward(self, *, adapters: Sequence[str | None], **inputs: Any) -> MixedOutput:
        """Compute a batch.

        Args:
            adapters (`Sequence[str | None]`): one a row, the adapter that it is for; `None` is the bare base.
            inputs: what the model takes, of `B` rows, with attention masks; without labels.

        Raises:
            InputError: for an unknown adapter, or not one a row.
        """
        slots = [BASE if name is None else self._slot(name) for name in adapters]
        batch = next((value for value in inputs.values() if isinstance(value, Tensor)), None)
        if batch is None:
            raise InputError(f"The model is given nothing to compute; give it {self.model.main_input_name}.")
        num_rows = len(batch)
        if len(slots) != num_rows:
            raise InputError(f"{len(slots)} adapters are named for a batch of {num_rows} rows; name one for each row.")
        if "labels" in inputs:
            raise InputError("Mixed adapters are not trained, so they take no labels; leave them out.")
        rows = Rows.of(slots, self.model.device)
        with computing(rows):
            logits = self.model(**inputs).logits
        names = [None if slot == BASE else self._adapters[slot - 1].label_names for slot in slots]
        assert rows.last_hidden_state is not None
        return MixedOutput(
            logits=tuple(
                None if own is None else row[..., : len(own)] for row, own in zip(logits, names, strict=True)
            ),
            label_names=tuple(names),
            last_hidden_state=rows.last_hidden_state,
        )

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode.

        Raises:
            InputError: when training is asked for.
        """
        if mode:
            raise InputError("Mixed adapters are not trained; train each by itself, as `hf-ssl finetune` does.")
        return super().train(False)

    def _slot(self, name: str) -> int:
        if name not in self.names:
            raise unknown_name("adapter loaded with the name", name, self.names)
        return 1 + self.names.index(name)

    def _check(self, adapter: StoredAdapter) -> dict[tuple[str, str], Piece]:
        """What is to be put where, so that no adapter is loaded by half."""
        others = [other for other in self._adapters if other.name != adapter.name]
        if others:
            check_same_base([others[0], adapter])
        if adapter.fingerprint not in (None, self._fingerprint):
            raise InputError(
                f"{self.model.name_or_path} is not the encoder that the adapter {adapter.name!r} was added with, its "
                "weights or its architecture are others; give the right one with encoder=..."
            )
        pieces, used = pieces_of(adapter, self.model, self._needed), self._places_of_others(adapter.name)
        for layer, kind in pieces:
            if kind in EITHER and any((layer, other) in used for other in EITHER - {kind}):
                raise InputError(
                    f"Of {adapter.name!r} and another adapter that is loaded, one has LoRA in {layer} and the other "
                    "has trained it whole, which cannot be mixed; load them into two models."
                )
        return pieces

    def _places_of_others(self, name: str) -> set[tuple[str, str]]:
        """Where adapters that are not called so have pieces."""
        return {place for other, places in self._places.items() if other != name for place in places}

    def _append(self, adapter: StoredAdapter, pieces: dict[tuple[str, str], Piece]) -> None:
        for (name, kind), piece in pieces.items():
            if (name, kind) not in self._layers:
                self._layers[name, kind] = install(self.model, name, piece, 1 + len(self._adapters))
        for place, layer in self._layers.items():
            layer.append(pieces.get(place))  # type: ignore[arg-type]  # of the layer's own kind
        self._adapters.append(adapter)
        self._places[adapter.name] = pieces.keys()
        self.model.eval()


def _keep_hidden_state(encoder: nn.Module, args: Any, output: Any) -> None:
    current_rows().last_hidden_state = output[0]

"""Read what is published of an image model: its tensors by their full names, and whose they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.hub.conversion.architectures import Weights
from hf_ssl.hub.conversion.images.sources import SOURCES
from hf_ssl.hub.conversion.reading import load_inert

STEMS = ("conv1.weight", "0.weight", "patch_embed.proj.weight", "patch_embed.proj.0.weight")
"""Of torchvision's ResNet, of the same as a sequence, of timm's ViT, and of MoCo v3's with convolutions (which is
found, so that its unknown names are named)."""


@dataclass(frozen=True)
class Backbone:
    """A backbone found in a file.

    Args:
        source (`str`): a key of `SOURCES`.
        place (`str`): what its names began with.
        weights (`dict[str, Tensor]`): by the names within the backbone, without heads.
        left_out (`list[str]`): what else the file holds: heads, other encoders, the optimiser's state.
    """

    source: str
    place: str
    weights: Weights
    left_out: list[str]


def read_state(path: Path) -> Any:
    """What a `.safetensors` or pickled file holds; a pickle creates tensors, plain values and inert stand-ins only.

    Raises:
        InputError: for a file that is missing, damaged, or pickles anything unknown, which it names.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return load_inert(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}); is it complete?") from error


def recognise(state: Any) -> str | None:
    """The key of `SOURCES` whose backbone is in a state; `None` if there is none."""
    tensors = dict(flattened(state))
    names = [*tensors, *(state if isinstance(state, dict) else ())]
    for key, source in SOURCES.items():
        if _place(tensors, source.places) is not None and any(source.mark in str(name) for name in names):
            return key
    return None


def find_backbone(path: Path, origin: str | None) -> Backbone:
    """Read a file and take the backbone out of it.

    Args:
        path (`Path`): a file of one of `SOURCES`.
        origin (`str`, *optional*): which; by default it is recognised.

    Raises:
        InputError: as [`read_state`], or when there is no backbone where it should be.
    """
    state = read_state(path)
    origin = origin or recognise(state)
    if origin is None:
        raise no_backbone(path, state)
    if origin not in SOURCES:
        raise unknown_name("source of image checkpoints", origin, SOURCES)
    tensors, source = dict(flattened(state)), SOURCES[origin]
    place = _place(tensors, source.all_places())
    if place is None:
        tried = ", ".join(f"{''.join(place)}*" for place in source.places if any(place))
        raise InputError(
            f"{path} holds no backbone of {source.title}{f' ({tried})' if tried else ''}; leave --from out, and it is "
            "looked for elsewhere."
        )
    return _taken_out(tensors, state, origin, place)


def no_backbone(path: Path, state: Any) -> InputError:
    """The error for a file in which nothing is recognised."""
    found = sorted({".".join(name.split(".")[:2]) for name, _ in flattened(state)})
    shown = ", ".join(found[:6]) + (" …" if len(found) > 6 else "") if found else "no tensors"
    return InputError(
        f"{path} holds no backbone that is known here, neither a torchvision ResNet nor a timm ViT, but {shown}; the "
        f"sources are {', '.join(SOURCES)}."
    )


def flattened(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts, each by the keys that lead to it, joined by dots."""
    if isinstance(state, Tensor):
        yield prefix.removesuffix("."), state
    elif isinstance(state, dict):
        for key, part in state.items():
            yield from flattened(part, f"{prefix}{key}.")


def _place(tensors: Weights, places: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    """The first place where a stem is."""
    for model, backbone in places:
        stems = [tensors[f"{model}{backbone}{stem}"] for stem in STEMS if f"{model}{backbone}{stem}" in tensors]
        if any(stem.ndim == 4 for stem in stems):
            return model, backbone
    return None


def _taken_out(tensors: Weights, state: dict[str, Any], origin: str, place: tuple[str, str]) -> Backbone:
    whole, heads = "".join(place), SOURCES[origin].heads or ("\0",)
    weights: Weights = {}
    others = {str(key) for key, part in state.items() if part is not None and not list(flattened(part))}
    for name, tensor in tensors.items():
        inner = name.removeprefix(whole)
        if name.startswith(whole) and not inner.startswith(heads):
            weights[inner] = tensor
        else:
            others.add(_module(name, *place))
    return Backbone(origin, whole, weights, sorted(others))


def _module(name: str, model: str, backbone: str) -> str:
    """What a tensor that is no parameter of the backbone belongs to: a head, another encoder, the optimiser ..."""
    if name.startswith(model + backbone):
        return name.removeprefix(model + backbone).partition(".")[0]
    if not name.startswith(model):
        return name.partition(".")[0]
    parts = name.removeprefix(model).split(".")
    return ".".join(parts[: 2 if parts[0] == backbone.partition(".")[0] else 1])

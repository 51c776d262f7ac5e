"""An adapter as it lies in a folder: its weights, its PEFT config, and the config of its model with the label map."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from hf_ssl.errors import InputError
from hf_ssl.tuners.adapter_folder import read_adapter
from hf_ssl.tuners.fingerprint import recorded_fingerprint

ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG = "adapter_config.json", "adapter_model.safetensors", "config.json"
MANIFEST = "manifest.json"
"""Written by a registry: what the files' bytes and the encoder were when the adapter was added."""

PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter, read.

    Args:
        name (`str`): what it is called here.
        folder (`Path`): where it lies.
        peft_config (`PeftConfig`): its kind and where it is in the encoder.
        config (`PreTrainedConfig`): of the model that it was trained in: label map and head.
        weights (`dict[str, Tensor]`): by their names in that model; the adapter's and the head's.
        fingerprint (`str`, *optional*): of its encoder, as a registry or else `hf-ssl finetune` has recorded it.
    """

    name: str
    folder: Path
    peft_config: PeftConfig
    config: PreTrainedConfig
    weights: dict[str, Tensor]
    fingerprint: str | None

    @property
    def encoder(self) -> str:
        """The name or folder of its encoder."""
        return address_of(self.peft_config.base_model_name_or_path)

    @property
    def model_class(self) -> str:
        """The transformers class that it was trained in."""
        return self.config.architectures[0]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Its classes."""
        return tuple(self.config.id2label[index] for index in range(self.config.num_labels))


def read_stored(name: str, folder: Path) -> StoredAdapter:
    """Read an adapter and check that it is whole, and as a registry took it in if one did.

    Args:
        name (`str`): what to call it.
        folder (`Path`): the output of `hf-ssl finetune`, or a registry's folder of it.

    Raises:
        InputError: for a missing, unreadable or altered file, or one without what it should hold.
    """
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG):
        if not (folder / file).is_file():
            raise InputError(f"The adapter {name!r} has no {file} in {folder}; give all that `hf-ssl finetune` left.")
    fingerprint = _check_manifest(name, folder)
    read_object(name, folder / ADAPTER_CONFIG)
    peft_config, tensors = read_adapter(folder)
    if not tensors:
        raise _broken(name, folder / ADAPTER_WEIGHTS, "it holds no weights")
    weights = {key.removeprefix(PREFIX): weight for key, weight in tensors.items()}
    config = _model_config(name, folder)
    fingerprint = fingerprint or recorded_fingerprint(config)
    adapter = StoredAdapter(name, folder, peft_config, config, weights, fingerprint)
    if not adapter.peft_config.base_model_name_or_path:
        raise _broken(name, folder / ADAPTER_CONFIG, "it names no encoder")
    return adapter


def address_of(encoder: str | Path) -> str:
    """The name of an encoder on the Hub, or its folder by a path that is right from everywhere."""
    return str(Path(encoder).resolve()) if Path(encoder).is_dir() else str(encoder)


def sha256(file: Path) -> str:
    """The digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_object(name: str, file: Path) -> dict[str, Any]:
    """A JSON object in an adapter's folder.

    Raises:
        InputError: for a file that holds none.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(name, file, str(error)) from error
    if not isinstance(value, dict):
        raise _broken(name, file, "it is no JSON object")
    return value


def _check_manifest(name: str, folder: Path) -> str | None:
    """The recorded fingerprint; an adapter that is in no registry has none."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_object(name, folder / MANIFEST)
    if not isinstance(manifest.get("sha256"), dict) or "encoder_fingerprint" not in manifest:
        raise _broken(name, folder / MANIFEST, "it lacks the files' digests or the encoder's fingerprint")
    for file, digest in manifest["sha256"].items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            change = "was changed" if (folder / file).is_file() else "is missing"
            raise InputError(
                f"{file} of the adapter {name!r} {change} since it was added to its registry ({folder}); add it again."
            )
    return manifest["encoder_fingerprint"]


def _model_config(name: str, folder: Path) -> PreTrainedConfig:
    read_object(name, folder / MODEL_CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise _broken(name, folder / MODEL_CONFIG, str(error).splitlines()[0]) from error
    if not config.architectures or len(config.architectures) != 1:
        raise _broken(name, folder / MODEL_CONFIG, "it does not name its model's class in architectures")
    if set(config.id2label) != set(range(config.num_labels)):
        raise _broken(name, folder / MODEL_CONFIG, "its label map does not number the classes from 0")
    return config


def _broken(name: str, file: Path, reason: str) -> InputError:
    return InputError(f"{file.name} of the adapter {name!r} in {file.parent} cannot be used ({reason}); save it anew.")

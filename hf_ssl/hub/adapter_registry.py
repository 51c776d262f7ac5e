"""A folder of adapters of one encoder, to be loaded together."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils import HFValidationError, WeakFileLock

from hf_ssl.errors import InputError, unknown_name, writing
from hf_ssl.hub.contents import TEXT_SUFFIXES, TRAINER_STATE
from hf_ssl.hub.failures import HubFailure
from hf_ssl.tuners.fingerprint import fingerprint
from hf_ssl.tuners.mixed.base import load_base
from hf_ssl.tuners.mixed.pieces import pieces_of
from hf_ssl.tuners.mixed.stored_adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    StoredAdapter,
    address_of,
    read_object,
    read_stored,
    sha256,
)

SAFE_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COPIED_SUFFIXES = (*TEXT_SUFFIXES, ".model")
"""Configs, label map, vocabulary, metrics and card; of weights, the adapter's safetensors alone."""

LOCK = ".lock"
ADDING, REPLACED = ".adding", ".replaced"
"""What a write that was killed may leave. The second has the name of the adapter that it was, after a dot."""


@dataclass(frozen=True)
class AdapterFacts:
    """What a registry knows of an adapter.

    Args:
        kind (`str`): its method, as PEFT calls it.
        model_class (`str`): the transformers class that it was trained in.
        label_names (`tuple[str, ...]`): its classes.
        encoder (`str`): the name or folder of its encoder.
        num_parameters (`int`): of adapter and head.
        num_bytes (`int`): of the file with these.
    """

    kind: str
    model_class: str
    label_names: tuple[str, ...]
    encoder: str
    num_parameters: int
    num_bytes: int


class AdapterRegistry(Mapping[str, Path]):
    """A folder with one folder for each adapter, all of one encoder: a mapping of their names to their folders.

    It has no index: the folders are what there is, and each is what `load_finetuned` takes. `MixedAdapters.load` takes
    the registry. In each folder a manifest has the digests of the files, so that an alteration is found when the
    adapter is read, and the fingerprint of the encoder, whose weights all adapters of a registry share.

    Writes are of one process at a time and take effect by a rename: one that is killed leaves every adapter as it was
    or as it should be.

    Args:
        path (`str` or `Path`): the folder; the first `add` makes it.

    Raises:
        InputError: for a path that is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{path} is a file; give the folder of a registry, or one that is to be made.")
        if self.path.is_dir() and any(self.path.glob(f"{REPLACED}.*")):
            with self._writing():
                pass  # restores what a killed write took away

    def __getitem__(self, name: str) -> Path:
        """The folder of an adapter.

        Raises:
            InputError: for a name that no adapter has, or a folder that has lost its manifest.
        """
        folder = self._folder(name)
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"The adapter {name!r} has no {MANIFEST} in {folder}, so its files cannot be checked; remove it, and "
                "add it again."
            )
        return folder

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and SAFE_NAME.fullmatch(name) is not None and (self.path / name).is_dir()

    def __iter__(self) -> Iterator[str]:
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return iter(sorted(folder.name for folder in folders if folder.name in self))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def facts(self, name: str) -> AdapterFacts:
        """What an adapter is.

        Raises:
            InputError: for an unknown name, or an adapter with a missing or altered file.
        """
        adapter = read_stored(name, self[name])
        return AdapterFacts(
            kind=adapter.peft_config.peft_type.value,
            model_class=adapter.model_class,
            label_names=adapter.label_names,
            encoder=adapter.encoder,
            num_parameters=sum(weight.numel() for weight in adapter.weights.values()),
            num_bytes=(self[name] / ADAPTER_WEIGHTS).stat().st_size,
        )

    def add(
        self,
        source: str | Path,
        name: str | None = None,
        encoder: str | Path | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Copy an adapter into the registry, if it is whole and its encoder is that of the others.

        Its encoder is loaded to see whether the adapter fits, and to take its fingerprint.

        Args:
            source (`str` or `Path`): the output folder of `hf-ssl finetune`, or the Hub repository that it is in.
            name (`str`, *optional*): what to call it; by default the last part of the source.
            encoder (`str` or `Path`, *optional*): where its encoder is now, if it was moved.
            overwrite (`bool`): replace the adapter that has this name.

        Returns:
            `Path`: its folder in the registry.

        Raises:
            InputError: for an adapter that is not whole, cannot be mixed with others or belongs to another encoder,
                or a name that is unsafe or taken. The registry is then as it was.
        """
        folder = _local(source)
        name = folder_name(source) if name is None else name
        if not SAFE_NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot be an adapter's name; give one of letters, digits, '-', '_' and single '.'."
            )
        self._check_free(name, overwrite)
        adapter = read_stored(name, folder)
        model, needed = load_base(adapter, encoder)
        pieces_of(adapter, model, needed)
        encoder_fingerprint = fingerprint(model.base_model)
        address = address_of(encoder or adapter.encoder)
        if adapter.fingerprint not in (None, encoder_fingerprint):
            raise InputError(
                f"The adapter {name!r} was trained on another encoder than {address}: of that architecture, but with "
                "other weights; say where its own is with encoder=... (--encoder)."
            )
        with self._writing():
            self._check_free(name, overwrite)
            self._check_encoder(adapter, encoder_fingerprint, address)
            _copy(folder, self.path / ADDING, address)
            _write_manifest(self.path / ADDING, str(source), encoder_fingerprint)
            self._publish(name)
        return self.path / name

    def remove(self, name: str) -> None:
        """Delete an adapter; the others are not touched.

        Raises:
            InputError: for a name that no adapter has.
        """
        folder = self._folder(name)
        with self._writing():
            # After one rename it is gone, and no half of it can be left.
            os.rename(folder, self.path / ADDING)
            shutil.rmtree(self.path / ADDING)

    def _folder(self, name: str) -> Path:
        if name not in self:
            if not len(self):
                raise InputError(f"There is no adapter {name!r}, the registry {self.path} is empty; add one to it.")
            raise unknown_name("adapter", name, self)
        return self.path / name

    def _check_free(self, name: str, overwrite: bool) -> None:
        if name in self and not overwrite:
            raise InputError(f"{self.path} has an adapter {name!r} already; choose another name, or overwrite it.")

    def _check_encoder(self, adapter: StoredAdapter, encoder_fingerprint: str, address: str) -> None:
        """Refuse an adapter of another encoder than the others have; the one that it replaces does not count."""
        for name in self:
            if name == adapter.name:
                continue
            if read_object(name, self[name] / MANIFEST)["encoder_fingerprint"] != encoder_fingerprint:
                theirs = read_object(name, self[name] / ADAPTER_CONFIG)["base_model_name_or_path"]
                raise InputError(
                    f"The adapter {adapter.name!r} belongs to the encoder {address}, and those in {self.path} to "
                    f"{theirs}, whose weights or architecture are others; make another registry for it."
                )

    def _publish(self, name: str) -> None:
        """Give what was copied its name; what had that name goes only when it is there."""
        replaced = self.path / f"{REPLACED}.{name}"
        if (self.path / name).exists():
            os.rename(self.path / name, replaced)
        os.rename(self.path / ADDING, self.path / name)
        shutil.rmtree(replaced, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone, and after what a killed write may have left was put in order."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(self.path / LOCK):
                self._put_in_order()
                try:
                    yield
                finally:
                    self._put_in_order()

    def _put_in_order(self) -> None:
        shutil.rmtree(self.path / ADDING, ignore_errors=True)
        for replaced in self.path.glob(f"{REPLACED}.*"):
            final = self.path / replaced.name.removeprefix(f"{REPLACED}.")
            if final.exists():
                shutil.rmtree(replaced)
            else:
                os.rename(replaced, final)


def folder_name(source: str | Path) -> str:
    """The last part of a folder or of a repository's name."""
    return Path(source).resolve().name if Path(source).is_dir() else str(source).rpartition("/")[2]


def _local(source: str | Path) -> Path:
    """The folder of an adapter, which is fetched if it is on the Hub."""
    if Path(source).is_dir():
        return Path(source)
    patterns = [*(f"*{suffix}" for suffix in COPIED_SUFFIXES), ADAPTER_WEIGHTS]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (*HubFailure, HFValidationError) as error:
        raise InputError(
            f"{source} is no folder, and no adapter could be fetched from the Hub under this name "
            f"({str(error).strip().splitlines()[0].rstrip('.')}); check the name."
        ) from error


def _copy(source: Path, destination: Path, encoder: str) -> None:
    """Copy what belongs to an adapter: no pickle, no code, no checkpoint to resume from."""
    destination.mkdir()
    for file in sorted(source.iterdir()):
        wanted = file.suffix in COPIED_SUFFIXES and not TRAINER_STATE.fullmatch(file.name)
        if file.is_file() and (wanted or file.name == ADAPTER_WEIGHTS) and file.name != MANIFEST:
            shutil.copyfile(file, destination / file.name)
    config = read_object(destination.name, destination / ADAPTER_CONFIG)
    config["base_model_name_or_path"] = encoder
    (destination / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_manifest(folder: Path, source: str, encoder_fingerprint: str) -> None:
    digests = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    manifest = {"source": source, "encoder_fingerprint": encoder_fingerprint, "sha256": digests}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

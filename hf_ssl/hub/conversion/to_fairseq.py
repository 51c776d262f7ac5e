"""From a checkpoint of transformers or of this package to one that fairseq loads."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_ssl.errors import InputError, writing
from hf_ssl.hub.conversion.architectures import Weights, encoder_config_of
from hf_ssl.hub.conversion.dictionary import format_dictionary
from hf_ssl.hub.conversion.encoder_config import from_encoder_config, to_encoder_config
from hf_ssl.hub.conversion.fairseq_config import make_sidecar
from hf_ssl.hub.conversion.folders import load_folder
from hf_ssl.hub.conversion.report import Conversion
from hf_ssl.hub.conversion.settings import read_settings
from hf_ssl.hub.conversion.sidecar import SETTINGS, Sidecar, read_sidecar
from hf_ssl.hub.conversion.teacher import EMA
from hf_ssl.hub.conversion.transformers_models import TRAINING_FIELDS


def convert_to_fairseq(source: str | Path, destination: str | Path) -> Conversion:
    """Write a checkpoint that fairseq loads, and beside it the dictionaries of the model's labels, if it has any.

    A folder that [`convert_from_fairseq`] wrote gives back every weight and setting; one that came from elsewhere gets
    settings for its config. Weight normalisation has its older names, the only ones that fairseq knows.

    Args:
        source (`str` or `Path`): a folder with a checkpoint of `Wav2Vec2ForPreTraining`, `Wav2Vec2Model`,
            `HubertModel`, `Data2VecAudioModel`, their `ForCTC`, or of this package's objectives of these families.
        destination (`str` or `Path`): a file (`.pt`) that does not exist yet.

    Returns:
        [`Conversion`]

    Raises:
        InputError: for a source that has no counterpart in fairseq, or a destination that is taken.
    """
    folder, file = Path(source), Path(destination).resolve()
    architecture, config, loaded = load_folder(folder)
    theirs = {here: name for name, here in architecture.names(config).items()}
    weights = {theirs[here]: weight for here, weight in loaded.items() if here in theirs}
    sidecar, made_up = read_sidecar(folder), set[str]()
    if sidecar is None:
        sidecar = make_sidecar(architecture, config, folder, file.parent, weights)
        made_up = {EMA if name.startswith(EMA) else name for name in sidecar.weights}
    else:
        _check_same_encoder(folder, sidecar, encoder_config_of(config))
    weights = architecture.restore(sidecar.weights | weights, next(iter(sidecar.dictionaries.values()), None))
    _write(file, weights, sidecar)
    headless = not architecture.fine_tuned and "final_proj.weight" not in weights
    return Conversion(
        file,
        f"a checkpoint of fairseq's {architecture.family}",
        left_out=sorted(loaded.keys() - theirs.keys()),
        made_up=sorted(made_up),
        lacking=["final_proj"] if headless else [],
    )


def _write(file: Path, weights: Weights, sidecar: Sidecar) -> None:
    """Write a checkpoint, and the dictionaries beside it; nothing that is there is changed."""
    texts = {
        file.parent / f"dict.{label}.txt": format_dictionary(rows) for label, rows in sidecar.dictionaries.items()
    }
    taken = [path for path, text in texts.items() if path.is_file() and path.read_text(encoding="utf-8") != text]
    if file.exists() or taken:
        raise InputError(f"{[file, *taken][-1]} already exists; choose another folder for the converted checkpoint.")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        staging = file.with_name(f"{file.name}.partial")
        torch.save(_state(weights, sidecar), staging)
        os.replace(staging, file)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")


def _check_same_encoder(folder: Path, sidecar: Sidecar, encoder: PreTrainedConfig) -> None:
    """Settings that were kept must be of the encoder that is there now; its dropout may have changed."""
    kept = to_encoder_config(read_settings(sidecar.settings, flat=sidecar.flat))
    before, now = from_encoder_config(kept), from_encoder_config(encoder)
    for name in before.keys() - TRAINING_FIELDS.values():
        if before[name] != now.get(name):
            raise InputError(
                f"{folder / SETTINGS} says {name} = {before[name]!r}, but the encoder there has {now.get(name)!r}; "
                "remove that file, and new settings are made."
            )


def _state(weights: Weights, sidecar: Sidecar) -> dict[str, Any]:
    """What fairseq's trainer saves, without the optimiser's state."""
    teacher = {name.removeprefix(f"{EMA}."): weight for name, weight in weights.items() if name.startswith(f"{EMA}.")}
    model: dict[str, Any] = {name: weight for name, weight in weights.items() if not name.startswith(f"{EMA}.")}
    settings = _with_namespaces(sidecar.settings)
    return {
        "args": Namespace(**settings) if sidecar.flat else None,
        "cfg": None if sidecar.flat else settings,
        "model": model | ({EMA: teacher} if teacher else {}),
        "criterion": None,
        # fairseq takes a checkpoint without these for one of its oldest.
        "optimizer_history": [
            {
                "criterion_name": "",
                "optimizer_name": "",
                "lr_scheduler_state": {},
                "num_updates": sidecar.num_updates,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}},
    }


def _with_namespaces(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a pretraining inside those of a fine-tuning, if they were `args`, are again."""
    restored: dict[str, Any] = {}
    for key, value in settings.items():
        restored[key] = _with_namespaces(value) if isinstance(value, dict) else value
        if key == "w2v_args" and isinstance(value, dict) and "model" not in value:
            restored[key] = Namespace(**value)
    return restored

"""From a pretraining checkpoint to a plain encoder."""

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoProcessor

from hf_ssl.errors import InputError
from hf_ssl.hub.loading import processor_class
from hf_ssl.modeling import DISTILLATION, OBJECTIVES, Objective


def export_run(source: str | Path, destination: str | Path) -> Path:
    """Write the encoder of a pretraining checkpoint as a plain transformers checkpoint, with its preprocessor.

    Args:
        source (`str` or `Path`): a `checkpoint-N` or `pretraining` folder, or the output folder of `hf-ssl pretrain`,
            of which `pretraining` is taken.
        destination (`str` or `Path`): a folder that does not exist yet, or is empty.

    Returns:
        `Path`: the destination, which `AutoModel.from_pretrained` loads where hf_ssl is not installed.

    Raises:
        InputError: for a source that is no pretraining checkpoint, or a destination that is taken.
    """
    source, destination = Path(source), Path(destination).resolve()
    if (source / "pretraining" / "config.json").is_file():
        source = source / "pretraining"
    row = objective_of(source)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} already exists; choose another folder for the encoder.")
    processor = AutoProcessor.from_pretrained(source) if processor_class(source) else None
    model = row.model_class.from_pretrained(source)
    # Written beside its place and renamed, so that a full disk leaves no half of an encoder.
    staging = destination.with_name(f"{destination.name}.partial")
    try:
        model.export_encoder(staging, processor)
        os.replace(staging, destination)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise InputError(
            f"The encoder could not be written to {destination} ({error}); choose another folder."
        ) from error
    return destination


def objective_of(folder: Path) -> Objective:
    """Which objective a checkpoint belongs to.

    Raises:
        InputError: for a folder without a checkpoint, or with one that is no objective's; it says what is there.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"There is no checkpoint in {folder}, it has no config.json; give a run's output folder or one of its "
            "checkpoint-N."
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    for row in (*OBJECTIVES.values(), DISTILLATION):
        if row.config_class.model_type == config["model_type"]:
            return row
    name = ", ".join(config.get("architectures") or ["without weights"])
    raise InputError(
        f"{folder} is a {config['model_type']!r} checkpoint ({name}), not one of hf_ssl's pretraining; if "
        "transformers' AutoModel loads it, it is a plain one already."
    )

"""Load what `save_pretrained` wrote, as the counterpart of a model of fairseq."""

import json
from pathlib import Path

from transformers import PreTrainedConfig

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.hub.conversion.architectures import Architecture, Weights, encoder_config_of
from hf_ssl.hub.conversion.objectives import OBJECTIVES
from hf_ssl.hub.conversion.transformers_models import TRANSFORMERS

ARCHITECTURES = {row.model_class.__name__: row for row in (*TRANSFORMERS, *OBJECTIVES.values())}
ENCODERS = {
    "wav2vec2": ("wav2vec2", "hubert"),
    "hubert": ("hubert", "wav2vec2"),
    "data2vec_audio": ("data2vec-audio",),
}
"""Objective → transformers' encoders that fairseq builds for it: the first two differ by name only."""


def load_folder(folder: Path) -> tuple[Architecture, PreTrainedConfig, Weights]:
    """The architecture, config and weights of a checkpoint, in the precision that it was saved in.

    Raises:
        InputError: for a folder without a checkpoint, with one that is not converted, or that is not complete.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"There is no checkpoint in {folder}, it has no config.json; give a folder that has one.")
    fields = json.loads(file.read_text(encoding="utf-8"))
    name = (fields.get("architectures") or ["without architectures"])[0]
    if name not in ARCHITECTURES:
        raise unknown_name("conversion to fairseq for the class", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    if architecture.model_class.config_class.model_type != fields["model_type"]:
        raise InputError(f"{folder} has a {name} of the type {fields['model_type']!r}, which is another class.")
    model, report = architecture.model_class.from_pretrained(folder, output_loading_info=True)
    for problem, found in (
        ("lacks", report["missing_keys"]),
        ("has, unknown to the class,", report["unexpected_keys"]),
    ):
        if found:
            raise InputError(f"The {name} in {folder} {problem} {', '.join(sorted(found)[:5])}; is it complete?")
    encoder = encoder_config_of(model.config)
    if encoder.model_type not in ENCODERS[architecture.family]:
        raise InputError(
            f"{folder} holds the encoder {encoder.model_type!r}; fairseq's {architecture.family} has the one that "
            f"transformers calls {ENCODERS[architecture.family][0]!r}."
        )
    return architecture, model.config, dict(model.state_dict())

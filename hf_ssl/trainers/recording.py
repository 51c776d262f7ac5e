"""What a finished run says of itself in its folder."""

import copy
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from hf_ssl.hub.sources import as_path

NAMES = (
    ("data", "path"),
    ("model", "from_encoder"),
    ("model", "from_pretraining"),
    ("model", "encoder"),
    ("model", "teacher"),
    ("clustering", "features"),
    ("unlabelled", "path"),
)
"""What in a run file may be a name on the Hub or a local path."""


def save_run_file(output: Path, run: Any) -> None:
    """Write `run.yaml`, which makes the run again.

    Args:
        output (`Path`): the run's folder.
        run (dataclass): its sections, each a dataclass, plain values, or `None` where the run has no such section.
    """
    sections = {name: describe(section) for name, section in vars(run).items() if section is not None}
    for section, key in NAMES:
        if sections.get(section, {}).get(key) is not None:
            sections[section][key] = as_path(sections[section][key])
    plain = json.loads(json.dumps(sections, default=str))
    (output / "run.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def describe(section: Any) -> Any:
    """A section as plain values, of the training arguments only what differs from the defaults."""
    if isinstance(section, TrainingArguments):
        output_dir = str(section.output_dir)
        # Making arguments sets up the devices: with another `use_cpu` this process would leave the group of all ranks.
        defaults = type(section)(output_dir=output_dir, use_cpu=section.use_cpu).to_dict() | {"use_cpu": False}
        changed = {key: value for key, value in section.to_dict().items() if value != defaults.get(key)}
        return {"output_dir": output_dir, **changed}
    return asdict(section) if is_dataclass(section) and not isinstance(section, type) else copy.deepcopy(section)

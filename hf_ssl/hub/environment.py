"""How a run was made: its command, the versions and the hardware, kept in the run's folder for its card."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

FILE = "environment.json"
PACKAGES = ("hf-ssl", "transformers", "torch", "datasets", "accelerate")


def save_environment(run_dir: Path, command: str) -> None:
    """Write down the command and what this process runs on.

    Args:
        run_dir (`Path`): the run's output folder.
        command (`str`): the command line that made it.
    """
    facts = {"command": command, "python": platform.python_version(), "hardware": describe_hardware()}
    facts |= {name: version(name) for name in PACKAGES}
    (run_dir / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_environment(run_dir: Path) -> dict[str, str] | None:
    """What [`save_environment`] wrote; `None` for a run that did not."""
    path = run_dir / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def describe_hardware() -> str:
    """The accelerators of this process, or the processor where there are none."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "Apple GPU (MPS)"
    return f"CPU ({platform.machine()}, {os.cpu_count()} logical cores)"

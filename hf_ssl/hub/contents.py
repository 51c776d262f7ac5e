"""What of a folder on disk is sent to the Hub, and what never is."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_ssl.errors import InputError
from hf_ssl.hub.loading import code_files
from hf_ssl.modeling import DISTILLATION, OBJECTIVES

TEXT_SUFFIXES = (".json", ".txt", ".jinja", ".yaml", ".md")
SENT_SUFFIXES = (*TEXT_SUFFIXES, ".safetensors", ".model", ".svg")
"""Configs, vocabularies (`.txt`, SentencePiece's `.model`), the run file, the card with its plots, and the weights."""

ADAPTER_CONFIG = "adapter_config.json"
RUN_FILES = ("run.yaml", "metrics.json", "environment.json")

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Formats that can run code when they are loaded."""

TRAINER_STATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state(_\d+)?)\.(bin|pt|pth)|trainer_state\.json"
)
"""What a trainer leaves for resuming. It stays at home without a word: nobody who loads the model needs it."""

TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


@dataclass(frozen=True)
class Contents:
    """What a push sends.

    Args:
        folder (`Path`): where it comes from.
        files (`dict[str, Path]`): local file by its path in the repository; the card is not among them.
        kind (`str`): `"encoder"` (a pretraining run, its encoder at the root), `"adapter"` (PEFT) or `"model"` (a
            whole fine-tuned model).
    """

    folder: Path
    files: dict[str, Path]
    kind: str


def contents(folder: Path) -> Contents:
    """Choose the files of a run's output folder that are sent.

    Args:
        folder (`Path`): the output of `hf-ssl pretrain` or `hf-ssl finetune`, or a PEFT adapter's folder.

    Raises:
        InputError: for a folder that is none of these, or that holds weights in a format that is not safetensors.
    """
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}; give the output folder of `hf-ssl pretrain` or `hf-ssl finetune`."
        )
    if (folder / "encoder" / "config.json").is_file():
        files = sendable(folder / "encoder")
        files |= {f"pretraining/{name}": path for name, path in sendable(folder / "pretraining").items()}
        files |= {name: folder / name for name in RUN_FILES if (folder / name).is_file()}
        kind = "encoder"
    elif (folder / ADAPTER_CONFIG).is_file():
        files, kind = sendable(folder), "adapter"
    elif (folder / "config.json").is_file():
        _refuse_pretraining(folder)
        files, kind = sendable(folder), "model"
    else:
        raise InputError(
            f"{folder} holds neither encoder/config.json nor config.json nor adapter_config.json; give the output "
            "folder of a finished `hf-ssl pretrain` or `hf-ssl finetune`."
        )
    files.pop("README.md", None)
    if not any(name.endswith(".safetensors") and "/" not in name for name in files):
        raise InputError(f"{folder} holds no weights (*.safetensors); finish the run before it is pushed.")
    return Contents(folder, files, kind)


def _refuse_pretraining(folder: Path) -> None:
    """A pretraining checkpoint alone would be published without the encoder that others load."""
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type in {row.config_class.model_type for row in (*OBJECTIVES.values(), DISTILLATION)}:
        raise InputError(
            f"{folder} is a pretraining checkpoint ({model_type}) without its encoder; give the run's output folder, "
            f"{folder.resolve().parent}."
        )


def sendable(folder: Path) -> dict[str, Path]:
    """The files of one folder, without its subfolders (checkpoints), that may be sent.

    Of Python files those that the config names, without which the checkpoint would not load.

    Raises:
        InputError: where the folder is missing or holds weights as pickles.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; finish the run before it is pushed.")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not TRAINER_STATE.fullmatch(path.name))
    for path in files:
        if path.suffix in PICKLE_SUFFIXES:
            raise InputError(
                f"{path} can run code when it is loaded; save the weights as safetensors and remove it before pushing."
            )
    code = code_files(folder)
    return {path.name: path for path in files if path.suffix in SENT_SUFFIXES or path.name in code}


def check_no_token(files: Mapping[str, bytes | Path], token: str | None) -> None:
    """Refuse to send a text that contains an access token.

    Args:
        files (`Mapping[str, bytes | Path]`): what is sent, by its path in the repository.
        token (`str`, *optional*): the token that the push uses; others are known by their form.
    """
    for name, content in files.items():
        if not name.endswith((*TEXT_SUFFIXES, ".py")):
            continue
        text = content.decode() if isinstance(content, bytes) else content.read_text("utf-8")
        if TOKEN.search(text) or (token is not None and token in text):
            raise InputError(f"{name} contains an access token of the Hub; remove it there before pushing.")

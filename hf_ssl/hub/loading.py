"""The lines of Python that load what a run left, as the card, the commands and the report show them."""

import json
from pathlib import Path
from typing import Any

TASK = "finetuning_task"
"""Key of config.json that names the task of what `hf-ssl finetune` wrote."""


def processor_class(folder: Path) -> str | None:
    """The Auto class that loads the preprocessor saved in a folder; `None` where there is none."""
    settings = folder / "preprocessor_config.json"
    if settings.is_file():
        images = "image_processor_type" in json.loads(settings.read_text(encoding="utf-8"))
        return "AutoImageProcessor" if images else "AutoFeatureExtractor"
    return "AutoTokenizer" if (folder / "tokenizer_config.json").is_file() else None


def code_files(folder: Path) -> set[str]:
    """The Python files that a checkpoint's config names: of an architecture that transformers does not have."""
    return {f"{name.partition('.')[0]}.py" for name in read_json(folder / "config.json").get("auto_map", {}).values()}


def loading_lines(folder: Path, address: str) -> str:
    """Three lines that load an encoder and its preprocessor with plain transformers (two where it has none).

    An encoder that comes with its code is loaded by it.

    Args:
        folder (`Path`): a plain transformers checkpoint.
        address (`str`): what `from_pretrained` shall be given: a folder or the name of a repository.
    """
    processor = processor_class(folder)
    trust = ", trust_remote_code=True" if code_files(folder) else ""
    if processor is None:
        return f'from transformers import AutoModel\nencoder = AutoModel.from_pretrained("{address}"{trust})'
    name = "tokenizer" if processor == "AutoTokenizer" else "processor"
    return (
        f"from transformers import {', '.join(sorted(['AutoModel', processor]))}\n"
        f'{name} = {processor}.from_pretrained("{address}")\n'
        f'encoder = AutoModel.from_pretrained("{address}"{trust})'
    )


def finetuned_loading_lines(folder: Path, address: str, adapter: dict[str, Any] | None) -> str:
    """Lines that load a fine-tuned model or adapter: by our one call where `hf-ssl finetune` wrote it, else by its
    library.

    Args:
        folder (`Path`): where it lies.
        address (`str`): what the loading call shall be given.
        adapter (`dict[str, Any]`, *optional*): the config of an adapter; `None` for a whole model.
    """
    config = read_json(folder / "config.json")
    if TASK in config:
        return (
            "from hf_ssl.trainers.finetuned import load_finetuned\n"
            f'model, processor = load_finetuned("{address}")  # model.config.id2label names the classes'
        )
    if adapter is None:
        name = config["architectures"][0]
        return f'from transformers import {name}\nmodel = {name}.from_pretrained("{address}")'
    return f'from peft import AutoPeftModel\nmodel = AutoPeftModel.from_pretrained("{address}")'


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}

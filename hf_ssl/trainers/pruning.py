"""From an encoder to one with fewer layers, on disk."""

from pathlib import Path

from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.encoders import load_encoder
from hf_ssl.modeling.distillation.layers import keep_layers, num_layers_of

EVERY_OTHER = "every_other"


def prune(name_or_path: str, keep: str, output: Path) -> tuple[Path, list[int], int]:
    """Write an encoder that has only some of another's layers, with its preprocessor; see [`keep_layers`].

    Args:
        name_or_path (`str`): the encoder.
        keep (`str`): `"every_other"`, for layers 0, 2, 4, …, or layers with commas between them.
        output (`Path`): a folder that does not exist yet, or is empty.

    Returns:
        `tuple[Path, list[int], int]`: the folder, the layers kept and how many there were.

    Raises:
        InputError: for an encoder or layers that cannot be used, or a folder that is taken.
    """
    output = output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} already exists; choose another folder for the encoder.")
    encoder, processor = load_encoder(name_or_path)
    num_layers = num_layers_of(encoder.config)
    layers = list(range(0, num_layers, 2)) if keep == EVERY_OTHER else _layers(keep)
    pruned = keep_layers(encoder, layers)
    with writing(output):
        pruned.save_pretrained(output)
        processor.save_pretrained(output)
    return output, layers, num_layers


def _layers(keep: str) -> list[int]:
    numbers = [number.strip() for number in keep.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise InputError(f"--keep is {keep!r}; give {EVERY_OTHER}, or layers with commas between them, such as 0,2,4.")
    return [int(number) for number in numbers]

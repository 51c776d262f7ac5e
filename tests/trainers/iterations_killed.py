"""Runs `hf-ssl pretrain` again and again, killing it at another place each time, and once more to its end.

    python iterations_killed.py whole killed run.yaml PLACE...

`whole` is the folder of an uninterrupted run, `killed` of the others; the places are numbers in `PLACES`. Each run is
a process of its own, forked from this one before it has computed anything, which saves importing the libraries.
Prints how each ended and which files of finished stages it left behind, with their times.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hf_ssl.cli.main import main
from hf_ssl.trainers import clustering, run, shards
from hf_ssl.trainers.pretraining import SSLTrainer

FINISHED = ("iteration-1/README.md", "iteration-1/encoder/model.safetensors", "iteration-1/units/units.parquet")
FINISHED += ("units/codebook.safetensors", "units/units.parquet")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_step(iteration: str, step: int) -> None:
    """In the forward pass of the step after that one."""
    training_step = SSLTrainer.training_step

    def killed(self: SSLTrainer, *args: object, **kwargs: object) -> object:
        if Path(self.args.output_dir).name == iteration and self.state.global_step == step:
            die()
        return training_step(self, *args, **kwargs)

    SSLTrainer.training_step = killed  # type: ignore[method-assign,assignment]


def before_card(iteration: str) -> None:
    """Between what a finished run leaves behind and its card, which comes last."""
    write_card = run.write_card

    def killed(folder: Path, command: str) -> Path:
        if folder.name == iteration:
            die()
        return write_card(folder, command=command)

    run.write_card = killed


def in_features() -> None:
    """In the middle of a file, of the second iteration's features."""
    save_file = shards.save_file

    def killed(tensors: dict, file: Path) -> None:
        if "iteration-1" not in str(file) and "features-train-00001" in str(file):
            file.write_bytes(b"half of a file")
            die()
        save_file(tensors, file)

    shards.save_file = killed


def before_units(*_: object) -> None:
    """When the second iteration has its codebook and is about to write its units."""
    save_units = clustering.save_units

    def killed(folder: Path, *args: object) -> None:
        if "iteration-1" not in str(folder):
            die()
        save_units(folder, *args)

    clustering.save_units = killed


PLACES: list[Callable[[], None]] = [
    lambda: in_step("iteration-1", 3),
    lambda: before_card("iteration-1"),
    in_features,
    before_units,
    lambda: in_step("killed", 3),
]


def run_in_fork(file: str, output: Path, place: Callable[[], None]) -> int:
    """How `hf-ssl pretrain --resume` ended that is killed at a place, as `os.waitpid` says it."""
    child = os.fork()
    if child == 0:
        shards.SHARD_SECONDS = 4.0
        place()
        os._exit(main(["pretrain", file, f"training.output_dir={output}", "--resume"]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def times(output: Path) -> dict[str, int]:
    return {name: (output / name).stat().st_mtime_ns for name in FINISHED if (output / name).is_file()}


if __name__ == "__main__":
    whole, killed, file, *places = sys.argv[1:]
    report = [{"code": run_in_fork(file, Path(whole), lambda: None), "files": times(Path(whole))}]
    for place in [*(PLACES[int(number)] for number in places), lambda: None]:
        report.append({"code": run_in_fork(file, Path(killed), place), "files": times(Path(killed))})
    print("\n" + json.dumps(report))

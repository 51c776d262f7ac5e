"""`hf-ssl pretrain`: learn an encoder from unlabelled data."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.cli.run_file import build, check_sections, command_line, merged, read_run
from hf_ssl.data.arguments import DATA_ARGUMENTS
from hf_ssl.errors import InputError
from hf_ssl.modeling import OBJECTIVES, objective
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.build import STARTS
from hf_ssl.trainers.clustering import ClusteringArguments
from hf_ssl.trainers.iterations import encoder_folder, pretrain_iterations
from hf_ssl.trainers.run import PreTrainingRun

CHANGED = ("model", "data", "clustering", "training")
"""The sections that an iteration may change."""

SECTIONS = ("objective", *CHANGED, "iterations")

EPILOG = """\
examples:
  hf-ssl pretrain simclr_emoji                                  the recipe on the embedded emoji
  hf-ssl pretrain simclr_emoji data.path=my_photos              on a folder of your own images (PNG, JPEG, ...)
  hf-ssl pretrain hubert_asterisk data.path=my_recordings       on a folder of WAV, FLAC, OGG or MP3 files
  hf-ssl pretrain hubert_base data.path=LibriSpeech             all iterations, one after the other
  hf-ssl pretrain bert_glosses data.path=my_texts data.sentences=punctuation            on a folder of TXT files
  hf-ssl pretrain bert_base model.from_encoder=bert-base-uncased data.path=my_texts     continue a published encoder
  hf-ssl pretrain hubert_asterisk model.from_pretraining=runs/hubert_asterisk/pretraining data.path=my_recordings \
      data.units=my_units                                                continue a run of yours, heads included
  hf-ssl pretrain my_run.yaml training.learning_rate=1e-4 --resume
  python -m torch.distributed.run --nproc_per_node 8 -m hf_ssl.cli.main pretrain simclr_imagenet data.path=...

The output folder (training.output_dir, by default runs/<recipe>) then holds encoder/, which AutoModel.from_pretrained
loads anywhere, pretraining/, checkpoints to resume from, metrics.json, run.yaml and the model card.

A file may list iterations, each as what it changes in the other sections; from the second on, clustering.features is
the encoder of the one before. The output folder then holds the last iteration, and in it the folders iteration-1,
iteration-2, ... the earlier ones. A setting on the command line is for all of them, unless it names one:
iterations[1].training.max_steps=100 is for the second.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "pretrain",
        help="learn an encoder from unlabelled data",
        description="Pretrain an encoder with a self-supervised objective, as a recipe or your own YAML file says.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipes = [recipe for row in OBJECTIVES.values() for recipe in row.recipes]
    parser.add_argument("recipe", help=f"a YAML file, or one of: {', '.join(recipes)}")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="win over the file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read the run file, pretrain."""
    pretrain_iterations(read_iterations(args.recipe, args.overrides), command=command_line(), resume=args.resume)


def read_pretraining(recipe: str, overrides: list[str]) -> PreTrainingRun:
    """Make a pretraining run of a recipe and overrides; of a recipe with iterations, the last.

    Raises:
        InputError: for unknown names and values that cannot be used.
    """
    return read_iterations(recipe, overrides)[-1]


def read_iterations(recipe: str, overrides: list[str]) -> list[PreTrainingRun]:
    """Make the pretraining runs of a recipe and overrides: one, or one an iteration.

    Raises:
        InputError: for unknown names and values that cannot be used.
    """
    of_one = [override for override in overrides if override.startswith("iterations")]
    of_all = [override for override in overrides if override not in of_one]
    values = read_run(recipe, of_one, SECTIONS)
    iterations = values.pop("iterations", None) or [{}]
    runs: list[PreTrainingRun] = []
    for number, changes in enumerate(iterations, start=1):
        sections = merged(values, changes, of_all)
        if len(iterations) > 1:
            _check_changes(changes, sections, number)
        training = {"output_dir": f"runs/{Path(recipe).stem}", **(sections.get("training") or {})}
        if number < len(iterations):
            training["output_dir"] += f"/iteration-{number}"
        if runs and "features" not in (changes.get("clustering") or {}):
            sections["clustering"] = {**(sections.get("clustering") or {}), "features": encoder_folder(runs[-1])}
        runs.append(make_run(recipe, {**sections, "training": training}, of_all))
    return runs


def _check_changes(changes: dict[str, Any], sections: dict[str, Any], number: int) -> None:
    """What one iteration of several may say; `sections` are its own, changes and overrides included."""
    where = f"iterations[{number - 1}]"
    check_sections(changes, CHANGED, where)
    if "output_dir" in (changes.get("training") or {}):
        raise InputError(f"{where}.training.output_dir is not free; set training.output_dir, the folder of them all.")
    if (sections.get("data") or {}).get("units") and "units" not in (changes.get("data") or {}):
        raise InputError(
            f"data.units are those of one iteration; give them to it, for the {number}. as {where}.data.units."
        )


def make_run(recipe: str, values: dict[str, Any], overrides: list[str]) -> PreTrainingRun:
    """Make a pretraining run of the values of its sections, in which the overrides are already.

    Raises:
        InputError: for unknown names and values that cannot be used.
    """
    check_sections(values, SECTIONS)
    keys = [override.partition("=")[0] for override in overrides]
    starts = {f"model.{start}" for start in STARTS}
    if starts & set(keys) and not any(key.startswith("model.encoder_config") for key in keys):
        values["model"].pop("encoder_config", None)  # the recipe's, in whose place the encoder is given
    if "objective" not in values:
        raise InputError(f"The run file {recipe} names no objective; add a line such as `objective: simclr`.")
    modality = objective(values["objective"]).modality
    clustering = values.get("clustering")
    return PreTrainingRun(
        objective=values["objective"],
        model=values.get("model") or {},
        data=build(DATA_ARGUMENTS[modality], values.get("data"), "data"),
        training=build(SSLTrainingArguments, values["training"], "training"),
        clustering=None if clustering is None else build(ClusteringArguments, clustering, "clustering"),
    )

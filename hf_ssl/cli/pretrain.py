"""`hf-ssl pretrain`: learn an encoder from unlabelled data."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.cli.run_file import build, command_line, read_run
from hf_ssl.data.arguments import DATA_ARGUMENTS
from hf_ssl.errors import InputError
from hf_ssl.modeling import OBJECTIVES, objective
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.clustering import ClusteringArguments
from hf_ssl.trainers.run import PreTrainingRun, pretrain

SECTIONS = ("objective", "model", "data", "clustering", "training")

EPILOG = """\
examples:
  hf-ssl pretrain simclr_emoji                                  the recipe on the embedded emoji
  hf-ssl pretrain simclr_emoji data.path=my_photos              on a folder of your own images (PNG, JPEG, ...)
  hf-ssl pretrain hubert_asterisk data.path=my_recordings       on a folder of WAV, FLAC, OGG or MP3 files
  hf-ssl pretrain bert_glosses data.path=my_texts data.sentences=punctuation            on a folder of TXT files
  hf-ssl pretrain bert_base model.from_encoder=bert-base-uncased data.path=my_texts     continue a published encoder
  hf-ssl pretrain my_run.yaml training.learning_rate=1e-4 --resume
  python -m torch.distributed.run --nproc_per_node 8 -m hf_ssl.cli.main pretrain simclr_imagenet data.path=...

The output folder (training.output_dir, by default runs/<recipe>) then holds encoder/, which AutoModel.from_pretrained
loads anywhere, pretraining/, checkpoints to resume from, metrics.json, run.yaml and the model card.
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
    pretrain(
        read_pretraining(args.recipe, args.overrides),
        command=command_line(),
        resume=args.resume,
    )


def read_pretraining(recipe: str, overrides: list[str]) -> PreTrainingRun:
    """Make a pretraining run of a recipe and overrides.

    Raises:
        InputError: for unknown names and values that cannot be used.
    """
    values = read_run(recipe, overrides, SECTIONS)
    keys = [override.partition("=")[0] for override in overrides]
    if "model.from_encoder" in keys and not any(key.startswith("model.encoder_config") for key in keys):
        values["model"].pop("encoder_config", None)  # the recipe's, in whose place the encoder is given
    if "objective" not in values:
        raise InputError(f"The run file {recipe} names no objective; add a line such as `objective: simclr`.")
    training = {"output_dir": f"runs/{Path(recipe).stem}", **(values.get("training") or {})}
    modality = objective(values["objective"]).modality
    clustering = values.get("clustering")
    return PreTrainingRun(
        objective=values["objective"],
        model=values.get("model") or {},
        data=build(DATA_ARGUMENTS[modality], values.get("data"), "data"),
        training=build(SSLTrainingArguments, training, "training"),
        clustering=None if clustering is None else build(ClusteringArguments, clustering, "clustering"),
    )

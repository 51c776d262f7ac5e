"""`hf-ssl finetune`: teach an encoder a task."""

import argparse
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from hf_ssl.cli.run_file import build, command_line, read_run, recipe_names
from hf_ssl.data.arguments import DATA_ARGUMENTS, DataArguments
from hf_ssl.errors import InputError
from hf_ssl.hub.exit_section import exit_scores_table
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.speech.encoder_ctc import EncoderForCTCConfig
from hf_ssl.trainers.exit_arguments import SCHEMES
from hf_ssl.trainers.fine_tuning import FineTuned, FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments, FineTuningModelArguments
from hf_ssl.trainers.tasks import TASKS, task_named
from hf_ssl.tuners.methods import TUNERS

SECTIONS = ("model", "data", "training")
REQUIRED = ("model.encoder", "model.task", "data.path")
PREFIX = "finetune_"


def tuners() -> str:
    """The names of the tuners with what they do, one a line."""
    return "\n".join(f"  {name:12} {tuner.summary}" for name, tuner in TUNERS.items())


EPILOG = f"""\
tasks (model.task): {", ".join(TASKS)}

examples:
  hf-ssl finetune finetune_emoji_lora model.encoder=runs/simclr_emoji/encoder     a recipe, on the embedded emoji
  hf-ssl finetune model.encoder=facebook/dinov2-base model.task=image-classification model.tuner=lora \\
      data.path=my_photos data.label_column=label training.learning_rate=5e-4     a folder with one folder a class
  hf-ssl finetune model.encoder=roberta-base model.task=token-classification \\
      data.path=words.json data.text_column=tokens data.label_column=tags
  hf-ssl finetune model.encoder=facebook/hubert-base-ls960 model.task=ctc data.path=my_recordings --resume
  hf-ssl finetune model.encoder=facebook/wav2vec2-base model.task=ctc data.path=my_phones data.text_unit=phones
  hf-ssl finetune finetune_vit_imagenet data.path=my_photos data.train_fraction=0.01  low-shot: 1 % of each class
  hf-ssl finetune my_run.yaml training.report_to=tensorboard
  hf-ssl finetune my_run.yaml model.exits.layers=[2,4,6] training.exit_scheme=two_stage      then: hf-ssl exits --help

tuners (model.tuner); fields of their configs are model.tuner_config.<field>=<value>, as model.tuner_config.r=4:
{tuners()}

exits after layers (model.exits.layers=all, or numbers from 1; model.exits.head=linear or pooler;
model.exits.pooling=cls or mean; model.exits.learn_to_exit=true) are trained by training.exit_scheme:
{", ".join(SCHEMES)}.

The output folder (training.output_dir) then holds the adapter with its head, or the whole model (with the tuners none,
head, bitfit and layer_norm); the label map, the preprocessor and metrics.json. hf_ssl.trainers.load_finetuned restores
all of it.
"""

PROCESSOR_ARGUMENTS = {
    "image-classification": "image_processor=processor",
    "text-classification": "tokenizer=processor",
    "token-classification": "tokenizer=processor",
    "audio-classification": "feature_extractor=processor",
    "ctc": "tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor",
}
"""How each task's pipeline is given its processor."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "finetune",
        help="teach an encoder a task, with an adapter or whole",
        description="Fine-tune any transformers encoder, one of yours or a published one, on labelled data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipes = ", ".join(name for name in recipe_names() if name.startswith(PREFIX))
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="recipe | section.key=value",
        help=f"a YAML file or one of: {recipes}; then settings, which win over it",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.add_argument(
        "--merge", action="store_true", help="also save the adapter merged into a model that loads where peft is not"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fine-tune and print what came out."""
    recipe, *overrides = [None, *args.overrides] if "=" in args.overrides[0] else args.overrides
    fine_tuning = read_fine_tuning(recipe, overrides)
    result = fine_tune(fine_tuning, command=command_line(), resume=args.resume, merge=args.merge)
    print(summary(fine_tuning, result))


def read_fine_tuning(recipe: str | None, overrides: list[str]) -> FineTuningRun:
    """Make a fine-tuning run of a recipe (`None`: of nothing else than the overrides) and overrides.

    Raises:
        InputError: for unknown names, values that cannot be used, or a missing one.
    """
    return make_fine_tuning(recipe, read_run(recipe, overrides, SECTIONS))


def make_fine_tuning(recipe: str | None, values: dict[str, Any]) -> FineTuningRun:
    """Make a fine-tuning run of the values of its sections; the recipe's name gives the default output folder.

    Raises:
        InputError: for unknown names, values that cannot be used, or a missing one.
    """
    for name in REQUIRED:
        section, key = name.split(".")
        if (values.get(section) or {}).get(key) is None:
            raise InputError(f"The run does not say {name}; add {name}=...")
    model = build(FineTuningModelArguments, values["model"], "model")
    default = {"output_dir": f"runs/{Path(recipe).stem}"} if recipe else {}
    return FineTuningRun(
        model=model,
        data=build(DATA_ARGUMENTS[task_named(model.task).modality], values["data"], "data"),
        training=build(FineTuningArguments, default | (values.get("training") or {}), "training"),
    )


def summary(fine_tuning: FineTuningRun, result: FineTuned) -> str:
    """What was trained and how well it does, where it is, and the lines of Python that load it."""
    splits = list(result.metrics)
    share = result.num_trained / result.num_parameters
    lines = [
        f"{fine_tuning.model.task} with {fine_tuning.model.encoder}, tuner {fine_tuning.model.tuner}",
        f"labelled training items: {result.num_train_items:,}{_fraction(fine_tuning.data)}",
        f"trained parameters: {result.num_trained:,} of {result.num_parameters:,} ({share:.2%})",
        f"size on disk: {result.size_on_disk / 1e6:,.2f} MB ({_saved(fine_tuning.model.tuner)})",
        "",
        "".join([" " * 12, *(f"{split:>12}" for split in splits)]),
    ]
    for name in next(iter(result.metrics.values()), {}):
        lines.append("".join([f"{name:12}", *(f"{result.metrics[split][name]:12.4f}" for split in splits)]))
    if result.exits:
        lines += ["", exit_scores_table(result.exits)]
    return "\n".join([*lines, "", f"Saved in {result.folder}. To use it:", "", *_usage(fine_tuning.model, result)])


def _fraction(data: DataArguments) -> str:
    """Where only a share of the labels is known: which."""
    if data.train_fraction is None:
        return ""
    return f" ({100 * data.train_fraction:.4g} % of each class, seed {data.train_fraction_seed})"


def _saved(tuner: str) -> str:
    return "the whole model" if TUNERS[tuner].config_class is None else "the adapter with its head"


def _usage(model: FineTuningModelArguments, result: FineTuned) -> list[str]:
    pipeline = task_named(model.task).pipeline
    # A class that only hf_ssl has loads where hf_ssl is imported.
    own = (EncoderForCTCConfig.model_type, EarlyExitConfig.model_type)
    is_plain = AutoConfig.from_pretrained(result.folder).model_type not in own
    if is_plain and (TUNERS[model.tuner].config_class is None or result.merged is not None):
        return [
            "  from transformers import pipeline",
            f'  predict = pipeline("{pipeline}", model="{result.merged or result.folder}")',
        ]
    return [
        "  from transformers import pipeline",
        "  from hf_ssl.trainers import load_finetuned",
        f'  model, processor = load_finetuned("{result.folder}")',
        f'  predict = pipeline("{pipeline}", model=model, {PROCESSOR_ARGUMENTS[model.task]})',
    ]

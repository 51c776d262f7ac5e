"""`hf-ssl distill`: learn a smaller encoder from a larger one."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.cli.run_file import build, command_line, read_run
from hf_ssl.data.arguments import DATA_ARGUMENTS
from hf_ssl.errors import InputError
from hf_ssl.modeling import DISTILLATION
from hf_ssl.modeling.distillation.losses import LOSSES
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.distillation import distill, modality_of_teacher
from hf_ssl.trainers.run import PreTrainingRun

SECTIONS = ("objective", "model", "data", "training")

EPILOG = f"""\
losses (model.losses.<name>=<weight>): {", ".join(LOSSES)}

examples:
  hf-ssl distill distil_hubert_asterisk model.teacher=runs/hubert_asterisk/encoder       on the embedded recordings
  hf-ssl distill distil_bert model.teacher=bert-base-uncased data.path=my_texts           DistilBERT
  hf-ssl distill distil_hubert model.teacher=facebook/hubert-base-ls960 data.path=my_recordings
  hf-ssl distill distil_minilm model.teacher=bert-base-uncased data.path=my_texts
  hf-ssl distill distil_emoji --resume
  hf-ssl distill model.teacher=runs/mine/encoder model.student.num_hidden_layers=2 model.losses.cosine=1 data.path=...

The student is of its teacher's family: model.student.<field>=<value> are the fields of the config in which it differs.
It starts from layers of its teacher (model.initial_layers=every_other, first or a list such as [0,2,4]). A loss of a
recipe is left out by model.losses.<name>=null.

The output folder (training.output_dir, by default runs/<recipe>) then holds what a pretraining leaves: encoder/, which
AutoModel.from_pretrained loads anywhere, pretraining/, checkpoints to resume from, metrics.json, run.yaml and the
card. To drop layers without training: `hf-ssl prune`.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "distill",
        help="learn a smaller encoder from a larger one, on unlabelled data",
        description="Distil any transformers encoder, one of yours or a published one, into a smaller one of its "
        "family.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="recipe | section.key=value",
        help=f"a YAML file or one of: {', '.join(DISTILLATION.recipes)}; then settings, which win over it",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read the run file, distil."""
    recipe, *overrides = [None, *args.overrides] if "=" in args.overrides[0] else args.overrides
    distill(read_distillation(recipe, overrides), command=command_line(), resume=args.resume)


def read_distillation(recipe: str | None, overrides: list[str]) -> PreTrainingRun:
    """Make a distillation run of a recipe (`None`: of nothing else than the overrides) and overrides.

    Raises:
        InputError: for unknown names, values that cannot be used, or a missing one.
    """
    values = read_run(recipe, overrides, SECTIONS)
    if values.get("objective", DISTILLATION.title) != DISTILLATION.title:
        raise InputError(
            f"{recipe} is a run of the objective {values['objective']!r}; start it with `hf-ssl pretrain`."
        )
    model, data = values.get("model") or {}, values.get("data") or {}
    if isinstance(model.get("losses"), dict):
        model = {**model, "losses": {name: weight for name, weight in model["losses"].items() if weight is not None}}
    modality = modality_of_teacher(model)
    if modality == "text":
        data = {"next_sentence": False, **data}  # pairs are for a loss that no student has
    return PreTrainingRun(
        objective=DISTILLATION.title,
        model=model,
        data=build(DATA_ARGUMENTS[modality], data, "data"),
        training=build(
            SSLTrainingArguments,
            {"output_dir": f"runs/{Path(recipe or 'distilled').stem}", **(values.get("training") or {})},
            "training",
        ),
    )

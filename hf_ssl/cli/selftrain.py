"""`hf-ssl selftrain`: a recogniser that learns from recordings without transcripts."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.cli.finetune import SECTIONS as FINE_TUNING_SECTIONS
from hf_ssl.cli.finetune import make_fine_tuning
from hf_ssl.cli.run_file import build, command_line, read_run
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.trainers.self_training import SelfTrainingArguments, SelfTrainingRun, self_train

SECTIONS = (*FINE_TUNING_SECTIONS, "unlabelled", "self_training")

DESCRIPTION = """\
Fine-tune an encoder for recognition on labelled recordings, let it transcribe unlabelled ones, keep the transcripts
that it is surest of for their length, and fine-tune the encoder again on both: in rounds. Every recogniser starts from
the encoder, not from its teacher.
"""

EPILOG = """\
examples:
  hf-ssl selftrain finetune_speech_ctc data.path=labelled unlabelled.path=recordings
  hf-ssl selftrain finetune_speech_ctc data.path=labelled unlabelled.path=recordings \\
      self_training.rounds=3 self_training.min_score=0.5 self_training.decoder=words self_training.lm=lm.arpa
  hf-ssl selftrain my_run.yaml --resume

The sections model, data and training are those of `hf-ssl finetune`; unlabelled takes what data does. The output
folder (training.output_dir) then holds round-0 (no pseudo-labels), round-1, ...: each a model, from round-1 on with
its training data in data/ and every transcript with its score in pseudo_labels.jsonl.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "selftrain",
        help="train a recogniser on its own transcripts of unlabelled recordings, in rounds",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="recipe | section.key=value",
        help="a YAML file or a recipe of `hf-ssl finetune` with model.task=ctc; then settings, which win over it",
    )
    parser.add_argument("--resume", action="store_true", help="continue where it was stopped")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Self-train and print the rounds."""
    recipe, *overrides = [None, *args.overrides] if "=" in args.overrides[0] else args.overrides
    self_training = read_self_training(recipe, overrides)
    rounds = self_train(self_training, command=command_line(), resume=args.resume)
    print(table(rounds))
    folder = Path(self_training.training.output_dir) / f"round-{len(rounds) - 1}"
    print(f"\nThe last recogniser is in {folder}; `hf-ssl recognise {folder} --data ...` uses it.")


def read_self_training(recipe: str | None, overrides: list[str]) -> SelfTrainingRun:
    """Make a self-training run of a recipe (`None`: of nothing else than the overrides) and overrides.

    Raises:
        InputError: for unknown names, values that cannot be used, or a missing one.
    """
    values = read_run(recipe, overrides, SECTIONS)
    if not (values.get("unlabelled") or {}).get("path"):
        raise InputError("The run does not say what to transcribe; add unlabelled.path=...")
    fine_tuning = make_fine_tuning(recipe, {name: values.get(name) for name in FINE_TUNING_SECTIONS})
    return SelfTrainingRun(
        **vars(fine_tuning),
        unlabelled=build(SpeechDataArguments, values["unlabelled"], "unlabelled"),
        self_training=build(SelfTrainingArguments, values.get("self_training"), "self_training"),
    )


def table(rounds: list[dict[str, Any]]) -> str:
    """The rounds as a Markdown table: what was kept, and the error rates."""
    columns = [
        (split, metric) for split in ("validation", "test") for metric in rounds[0].get(split, {}) if metric != "loss"
    ]
    header = ["round", "pseudo-labelled", "kept", *(f"{metric.upper()}, {split}" for split, metric in columns)]
    lines = [f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
    for values in rounds:
        labels = values["pseudo_labels"]
        cells = [str(values["round"])]
        cells += [f"{labels['hours']:.2f} h", f"{labels['hours_kept']:.2f} h"] if labels else ["", ""]
        cells += [f"{values[split][metric]:.4f}" for split, metric in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

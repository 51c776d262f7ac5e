"""`hf-ssl exits`: thresholds for a model with exits, and its score against its speed."""

import argparse
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, EvalPrediction

from hf_ssl.cli import figures
from hf_ssl.cli.evaluate import positive
from hf_ssl.cli.run_file import build, command_line, read_run
from hf_ssl.data.arguments import DATA_ARGUMENTS, DataArguments
from hf_ssl.data.labelled import reads_padding
from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.early_exit.calibration import Choice, for_loss, for_speed, with_guarantee
from hf_ssl.evaluation.early_exit.curve import ExitCurve, spread_thresholds, trace
from hf_ssl.evaluation.early_exit.records import CLASSES, RISKS, ExitRecords
from hf_ssl.evaluation.early_exit.timing import relative_times, set_policy
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.hub.exit_section import FIGURE, calibration_sentence, curve_table
from hf_ssl.hub.loading import read_json
from hf_ssl.modeling.early_exit.base import EarlyExitModel
from hf_ssl.modeling.early_exit.policies import NEVER, POLICIES
from hf_ssl.trainers.exit_records import exit_batches, exit_records
from hf_ssl.trainers.finetuned import load_finetuned
from hf_ssl.trainers.finetuned_data import finetuned_data
from hf_ssl.trainers.scoring import make_scorer
from hf_ssl.trainers.task_data import TaskData
from hf_ssl.trainers.tasks import task_named

LEAVING = [policy for policy in POLICIES if policy != NEVER]
BATCH_SIZES = (32, 1)
"""At which time is measured."""

DESCRIPTION = """\
A model with exits (hf-ssl finetune model.exits.layers=...) stops where one of its exits is certain enough. `calibrate`
chooses the threshold on the validation items and keeps it in the model's config.json; `curve` measures the score, the
layers used and the time of many thresholds on the test items, and adds table and plot to the model's card.
"""

EPILOG = """\
examples:
  hf-ssl exits calibrate runs/exits --loss 0.01                       the fastest that loses one point at most there
  hf-ssl exits calibrate runs/exits --loss 0.01 --confidence 0.95     and of which that can be promised
  hf-ssl exits calibrate runs/exits --speed 1.5 --policy patience     half as fast again, in layers
  hf-ssl exits calibrate runs/exits --speed 1.5 --measured            and on this machine, at batch 32
  hf-ssl exits curve runs/exits
  hf-ssl exits curve runs/exits --data my_photos data.label_column=kind

--confidence P promises (Learn then Test, arXiv:2110.01052): of all draws of validation items, at least the share P
leads to a threshold whose risk on items to come is at most --loss. --risk says which risk, of items with one class:
  loss           {loss}
  disagreement   {disagreement}
(of texts of words, likewise the share of a text's words; of recordings, the error rate added: config.json then says
exactly what was promised). If of no threshold it can be promised, nothing leaves early. The promise is for items drawn
as the validation items, on which nothing else was chosen: neither a checkpoint nor, by calibrating again and again, a
policy.
""".format(**{risk: meanings[CLASSES] for risk, meanings in RISKS.items()})


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "exits",
        help="early exit: choose thresholds on validation, measure score against speed",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="calibrate | curve", required=True)
    calibrating = commands.add_parser("calibrate", help="choose the threshold on the validation items")
    goal = calibrating.add_mutually_exclusive_group(required=True)
    goal.add_argument("--speed", type=float, metavar="X", help="how much faster than full depth, e.g. 1.5")
    goal.add_argument("--loss", type=float, metavar="SHARE", help="how much may be lost, e.g. 0.01: one point")
    calibrating.add_argument("--confidence", type=float, metavar="P", help="promise --loss with it, e.g. 0.95")
    calibrating.add_argument("--risk", choices=RISKS, default="loss", help="what --confidence promises of")
    calibrating.add_argument("--measured", action="store_true", help="--speed in time and not in layers")
    calibrating.set_defaults(run=calibrate)
    curve = commands.add_parser("curve", help="score, layers used and time of many thresholds, as table and plot")
    curve.add_argument("--split", default="test", help="train, validation or test (default)")
    curve.add_argument("--points", type=positive, default=9, metavar="N", help="thresholds (default: %(default)s)")
    curve.set_defaults(run=draw_curve)
    for command in (calibrating, curve):
        command.add_argument("folder", help="output folder of `hf-ssl finetune` with model.exits")
        command.add_argument("--data", metavar="PATH", help="by default, what the model was fine-tuned on")
        command.add_argument("--policy", choices=LEAVING, help="what makes an exit certain (default: entropy)")
        command.add_argument("--rounds", type=positive, default=5, metavar="N", help="of timing (default: 5)")
        command.add_argument(
            "--timed-items", type=positive, default=128, metavar="N", help="items that are timed (default: 128)"
        )
        command.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help="further data settings")


def calibrate(args: argparse.Namespace) -> None:
    """Choose a threshold on validation and keep it."""
    if args.confidence is not None and args.loss is None:
        raise InputError("--confidence promises a loss; give --loss instead of --speed, or leave it out.")
    if args.measured and args.speed is None:
        raise InputError("--measured is of --speed; leave it out.")
    model, data, path = load(args)
    records = exit_records(model, data, "validation")
    choice = choose(args, model, data, records)
    config = AutoConfig.from_pretrained(args.folder)
    set_policy(config, NEVER if choice.is_full_depth else choice.policy, choice.threshold)
    source = {"split": "validation", "data": path}
    config.exit_guarantee = None if choice.guarantee is None else choice.guarantee | source
    facts = {**asdict(choice), "data": path, "num_items": records.num_items, "depth": records.layers[-1]}
    with writing(Path(args.folder)):
        config.save_pretrained(args.folder)
        keep(args.folder, "exit_calibration", {**facts, "command": command_line()})
    print(calibration_sentence(facts))
    found = ", ".join(f"{risk} {value:.4f}" for risk, value in choice.risks.items())
    print(f"\nOn these items: {found} (see --help). Kept in {Path(args.folder) / 'config.json'}.")


def choose(args: argparse.Namespace, model: EarlyExitModel, data: TaskData, records: ExitRecords) -> Choice:
    """The threshold that the command line asks for."""
    policy = policy_of(args.policy or "entropy", records, args.folder)
    if args.confidence is not None:
        return with_guarantee(records, policy, args.loss, args.confidence, args.risk)
    if args.loss is not None:
        return for_loss(records, policy, args.loss)
    if not args.measured:
        return for_speed(records, policy, args.speed)
    batches = timed_batches(args, model, data, "validation", batch_sizes(data)[0])

    def speed(threshold: float) -> float:
        return 1 / relative_times(model, batches, policy, [threshold], args.rounds)[0]

    return for_speed(records, policy, args.speed, speed)


def draw_curve(args: argparse.Namespace) -> None:
    """Measure the curve, print it and keep it for the card."""
    model, data, path = load(args)
    config = model.config
    configured = config.exit_policy if config.exit_policy != NEVER else "entropy"
    validation = exit_records(model, data, "validation")
    policy = policy_of(args.policy or configured, validation, args.folder)
    thresholds, chosen = spread_thresholds(validation, policy, max(args.points, 2)).tolist(), None
    if policy == config.exit_policy and not isinstance(config.exit_threshold, list):
        chosen = config.thresholds[0]
        thresholds = sorted({*thresholds, chosen}, reverse=True)
    times = {
        str(size): relative_times(
            model, timed_batches(args, model, data, args.split, size), policy, thresholds, args.rounds
        )
        for size in batch_sizes(data)
    }
    records = exit_records(model, data, args.split)
    score = make_scorer(data.metrics, data.processor)
    settings = {"data": path, "split": args.split, "command": command_line(), "hardware": describe_hardware()}
    settings |= {"rounds": args.rounds, "timed_items": min(args.timed_items, records.num_items)}
    points = trace(records, policy, thresholds, lambda said: score(EvalPrediction(said, records.labels)), times)
    curve = ExitCurve(
        policy, list(records.layers), points, records.num_items, {**settings, "chosen_threshold": chosen}
    ).to_dict()
    with writing(Path(args.folder)):
        keep(args.folder, "exit_curve", curve)
        (Path(args.folder) / FIGURE).write_text(figures.exit_curve(curve), encoding="utf-8")
    print(curve_table(curve))
    print(f"\nAdded to {Path(args.folder) / 'metrics.json'}, and the plot: {Path(args.folder) / FIGURE}")


def load(args: argparse.Namespace) -> tuple[EarlyExitModel, TaskData, str]:
    """The model, the data that it is measured on, and where they come from.

    Raises:
        InputError: for a folder without a model with exits, or data that cannot be used.
    """
    model, processor = load_finetuned(args.folder)
    if not isinstance(model, EarlyExitModel):
        raise InputError(
            f"{args.folder} holds a {type(model).__name__}, which has no exits; fine-tune one with "
            "model.exits.layers=all."
        )
    data = data_of(args, task_named(model.config.finetuning_task).modality)
    prepared = finetuned_data(str(args.folder), model.config, model.base_model.config, processor, data)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), prepared, data.path


def data_of(args: argparse.Namespace, modality: str) -> DataArguments:
    """The data of the run that made the model, with what the command line changes.

    Raises:
        InputError: where neither says which data.
    """
    file = Path(args.folder) / "run.yaml"
    values = yaml.safe_load(file.read_text("utf-8"))["data"] if file.is_file() else {}
    values |= {} if args.data is None else {"path": args.data}
    values |= read_run(None, args.overrides, ["data"]).get("data", {})
    if "path" not in values:
        raise InputError(f"{args.folder} does not say what it was fine-tuned on; add --data PATH.")
    return build(DATA_ARGUMENTS[modality], values, "data")


def policy_of(policy: str, records: ExitRecords, folder: str) -> str:
    """A policy that the model can follow.

    Raises:
        InputError: for one that it has not learned.
    """
    if policy not in records.certainty:
        raise InputError(
            f"{folder} has not learned to exit; fine-tune it with model.exits.learn_to_exit=true, or choose one of: "
            f"{', '.join(records.certainty)}."
        )
    return policy


def batch_sizes(data: TaskData) -> tuple[int, ...]:
    """How many items at once are timed; where padding would be read, they come one at a time."""
    return (1,) if reads_padding(data.processor) else BATCH_SIZES


def timed_batches(
    args: argparse.Namespace, model: EarlyExitModel, data: TaskData, split: str, batch_size: int
) -> list[dict[str, torch.Tensor]]:
    """The first batches of a split, without labels."""
    number = -(-args.timed_items // batch_size)
    batches = list(islice(exit_batches(model, data, split, batch_size), number))
    return [{name: tensor for name, tensor in batch.items() if name != "labels"} for batch in batches]


def keep(folder: str, name: str, found: dict[str, Any]) -> None:
    """Write what was found into the folder's metrics.json, from which its card is made."""
    path = Path(folder) / "metrics.json"
    path.write_text(json.dumps({**read_json(path), name: found}, indent=2) + "\n", encoding="utf-8")

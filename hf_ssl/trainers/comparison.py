"""Objectives compared on one data set: the same encoder, data, batches, seeds and budget for each."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerState

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.bench import Bench, Judgement
from hf_ssl.evaluation.comparison import ComparedObjective, ComparisonResult, TrainedSeed
from hf_ssl.evaluation.evaluate import versions
from hf_ssl.evaluation.result import Measurement, Row
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.modeling import objective
from hf_ssl.trainers.build import make_model
from hf_ssl.trainers.collapse_watch import signs_of_collapse
from hf_ssl.trainers.compute_watch import ComputeWatch
from hf_ssl.trainers.kept_runs import (
    SETTINGS_FILE,
    facts_of,
    require_same,
    require_same_settings,
    settings_of,
    succeeds,
)
from hf_ssl.trainers.run import PreTrainingRun, pretrain
from hf_ssl.trainers.shards import write_whole
from hf_ssl.trainers.training_budget import Budget, fix_steps, kept_steps

logger = logging.getLogger(__name__)

RESULT_FILE, JUDGEMENT_FILE, BASELINES_FILE = "comparison.json", "judgement.json", "baselines.json"
NUM_LOGS = 20
LOGS_AN_EVALUATION, LOGS_A_CHECKPOINT = 2, 5
"""A checkpoint comes after a log, so that what the training has cost until then is in it."""


@dataclass(kw_only=True)
class Comparison:
    """What is compared.

    Args:
        runs (`dict[str, PreTrainingRun]`): one an objective, which differ in what is the objective's own.
        recipes (`dict[str, str]`): where their settings come from.
        seeds (`list[int]`): of each objective.
        budget ([`Budget`]): of each run.
        output (`Path`): folder.
        left_out (`dict[str, str]`): objectives that the encoder does not suit, and why.
        shared (`dict[str, Any]`): what all runs have in common, budget included.
        overrides (`list[str]`): the other settings of the command line, for the report.
    """

    runs: dict[str, PreTrainingRun]
    recipes: dict[str, str]
    seeds: list[int]
    budget: Budget
    output: Path
    left_out: dict[str, str] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.runs or not self.seeds:
            raise InputError("A comparison needs at least one objective and one seed; give --objectives and --seeds.")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds names one twice: {', '.join(map(str, self.seeds))}.")
        if next(iter(self.runs.values())).training.world_size > 1:
            raise InputError("A comparison runs in one process; start it without torch.distributed.run.")

    @property
    def data(self) -> ImageDataArguments:
        """What all objectives are judged on."""
        data = next(iter(self.runs.values())).data
        assert isinstance(data, ImageDataArguments)
        return data

    def run_of(self, name: str, seed: int, max_steps: int) -> PreTrainingRun:
        """One run, in its own folder in the output folder."""
        run = self.runs[name]
        evaluates, interval = run.data.label_column is not None, -(-max_steps // NUM_LOGS)
        changes: dict[str, Any] = {
            "output_dir": str(self.output / name / f"seed-{seed}"),
            "run_name": None,
            "seed": seed,
            "max_steps": max_steps,
            "logging_steps": interval,
            "eval_steps": LOGS_AN_EVALUATION * interval,
            "save_steps": LOGS_A_CHECKPOINT * interval,
            "eval_strategy": "steps" if evaluates else "no",
            "eval_on_start": evaluates,
        }
        training = replace(run.training, **changes)
        return replace(run, training=training)


def compare(plan: Comparison, *, command: str, report: Callable[[ComparisonResult], None]) -> ComparisonResult:
    """Run what is not there yet, and compare.

    A run that is finished in its folder is kept, one that was broken off continues from its last checkpoint, and one
    that fails is said to have failed, while the others go on. What was found is written to `comparison.json` and
    reported after each objective.

    Args:
        plan ([`Comparison`]): what to do.
        command (`str`): the command line.
        report (`Callable`): is given what is there, as soon as a run is finished.

    Returns:
        [`ComparisonResult`]: with the objectives in the order asked for.

    Raises:
        InputError: for data that cannot be used, or a folder with runs of other settings.
    """
    require_same_comparison(plan)
    bench = Bench(plan.data)
    result = ComparisonResult(
        settings={**plan.shared, "seeds": plan.seeds, "overrides": plan.overrides},
        objectives=[],
        left_out=plan.left_out,
        baselines=[],
        untrained=None,
        items=_describe(bench),
        hardware=describe_hardware(),
        versions=versions(),
        command=command,
    )
    with writing(plan.output):
        plan.output.mkdir(parents=True, exist_ok=True)
    _write(plan.output / SETTINGS_FILE, plan.shared)
    for number, name in enumerate(plan.runs, start=1):
        logger.info("\n== %s, objective %d of %d ==", objective(name).title, number, len(plan.runs))
        result.objectives.append(_compare(plan, name, bench, command))
        if result.finished and result.untrained is None:
            first = Path(result.finished[0].seeds[0].folder) / "encoder"
            result.baselines, result.untrained = _baselines(bench, first, plan.output / BASELINES_FILE)
        _write(plan.output / RESULT_FILE, result.to_dict())
        if result.finished:
            report(result)
    return result


def require_same_comparison(plan: Comparison) -> None:
    """Refuses an output folder of a comparison of something else, or with runs of other settings.

    Raises:
        InputError: for the first setting that differs.
    """
    file = plan.output / SETTINGS_FILE
    if file.is_file():
        kept, now = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(plan.shared))
        require_same(kept, now, plan.output, of="comparison", remedy="--output")
    for name, run in plan.runs.items():
        budget = kept_steps(run, plan.output / name)
        for seed in plan.seeds if budget else []:
            assert budget is not None
            require_same_settings(plan.run_of(name, seed, budget["max_steps"]), of="comparison", remedy="--output")


def reason_against(run: PreTrainingRun) -> str | None:
    """Why an objective cannot hold its encoder; `None` if it can. Nothing is computed."""
    row = objective(run.objective)
    assert isinstance(run.data, ImageDataArguments)
    updates: dict[str, Any] = {"encoder_config": {"image_size": run.data.image_size}}
    if row.model_class.needs_item_indices:
        updates["num_items"] = 1_000_000  # not known yet, and nothing is stored
    try:
        with torch.device("meta"):
            make_model(row, run.model, updates)
    except InputError as error:
        return str(error)
    return None


def _compare(plan: Comparison, name: str, bench: Bench, command: str) -> ComparedObjective:
    """All seeds of one objective."""
    run, folder = plan.runs[name], plan.output / name
    row = ComparedObjective(name, objective(name).title, plan.recipes[name], settings_of(run))
    reason = reason_against(run)
    if reason is not None:
        row.is_suited, row.failures[name] = False, reason
        logger.warning("%s is not trained: %s", row.title, reason)
        return row
    if not succeeds(
        partial(fix_steps, plan.budget, run, folder, command=command), name, row.failures, of="comparison"
    ):
        return row
    row.budget = fix_steps(plan.budget, run, folder, command=command)  # which is kept now
    for seed in plan.seeds:
        trained = _trained(plan, name, seed, bench, row, command)
        if trained is not None:
            row.seeds.append(trained)
    return row


def _trained(
    plan: Comparison, name: str, seed: int, bench: Bench, row: ComparedObjective, command: str
) -> TrainedSeed | None:
    """One run with the judgement of its encoder; `None` if it fails, and `row` says why."""
    run = plan.run_of(name, seed, row.budget["max_steps"])
    watch = ComputeWatch(plan.data.image_size)
    make = partial(pretrain, run, command=command, resume=True, callbacks=[watch])
    if facts_of(run, make, row.failures, of="comparison") is None:
        return None
    folder = Path(run.training.output_dir)
    file, with_map = folder / JUDGEMENT_FILE, seed == plan.seeds[0]

    def judge() -> None:
        judgement = bench.judge(folder / "encoder", title=f"{row.title}, seed {seed}", with_map=with_map)
        _write(file, judgement.to_dict())

    if not file.is_file() and not succeeds(judge, str(folder), row.failures, of="comparison"):
        return None
    judgement = Judgement.from_dict(json.loads(file.read_text(encoding="utf-8")))
    for method, measured in judgement.measurements.items():
        logger.info("%s, seed %d, %s: accuracy %.3f on test", row.title, seed, method, measured.scores["accuracy"])
    log = TrainerState.load_from_json(str(folder / "trainer_state.json")).log_history
    return TrainedSeed(seed, str(folder), log, list(signs_of_collapse(log).values()), judgement)


def _baselines(bench: Bench, encoder: Path, file: Path) -> tuple[list[Row], Judgement]:
    """[`Bench.baselines`], made once."""
    if not file.is_file():
        rows, untrained = bench.baselines(encoder)
        _write(file, {"rows": [vars(row) | {"runs": [vars(run) for run in row.runs]} for row in rows],
                      "untrained": untrained.to_dict()})  # fmt: skip
    kept = json.loads(file.read_text(encoding="utf-8"))
    rows = [Row(**{**row, "runs": [Measurement(**run) for run in row["runs"]]}) for row in kept["rows"]]
    return rows, Judgement.from_dict(kept["untrained"])


def _describe(bench: Bench) -> dict[str, Any]:
    return {
        "num_items": bench.num_items,
        "num_classes": bench.num_classes,
        "has_test_split": bench.has_test_split,
        "mapped_labels": bench.mapped_labels,
        "mapped_colours": bench.mapped_colours,
    }


def _write(file: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1, ensure_ascii=False, default=str) + "\n"
    write_whole(file, lambda staged: staged.write_text(text, encoding="utf-8"))

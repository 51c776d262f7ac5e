"""What students of `hf-ssl distill` know, beside their teachers, the same layers without training, and fresh weights.

    python benchmarks/students.py [--runs bert_glosses hubert_asterisk emoji] [--seeds 11 12 13]
    python benchmarks/students.py --write        only renew the card's tables from the stored results

The teachers are the encoders of `embedded.py`, found in `--teachers`. Each becomes a student by the recipe
`distil_<run>`, and, where it has a stack of layers, by leaving out the layers that the student does not have either.
All are evaluated as `hf-ssl evaluate` does. The results are kept in `benchmarks/results/students_<run>.json`; the
tables of `model_cards/distillation.md` are made of them.
"""

import argparse
import json
from pathlib import Path

from embedded import RESULTS, ROOT, cell, replace_between
from tuners import command

from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.cli.quickstart import EXAMPLES
from hf_ssl.evaluation.evaluate import evaluate_encoder, versions
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.modeling import OBJECTIVES

RUNS = {
    "bert_glosses": ("bert", "pretraining", "0"),
    "hubert_asterisk": ("hubert", "encoder", "0"),
    "emoji": ("simclr", "encoder", None),
}
"""By the recipe's name without `distil_`: the teacher's objective, which of its folders, and the layers kept."""
METHOD = "linear probe"
SCORES = ("accuracy", "balanced_accuracy")
CARD = ROOT / "model_cards" / "distillation.md"

Scores = dict[str, dict[str, list[float]]]


def measure(run: str, seeds: list[int], teachers: Path, output: Path) -> dict:
    """Distil and evaluate with every seed; what is done already is kept."""
    objective, folder, kept = RUNS[run]
    row = OBJECTIVES[objective]
    example = EXAMPLES[row.modality]
    data = example.labelled(read_pretraining(row.recipes[-1], []).data)
    found: Scores = {}
    for seed in seeds:
        teacher = teachers / f"{objective}_seed{seed}"
        student, pruned = output / f"{run}_seed{seed}", output / f"{run}_pruned{seed}"
        if not (student / "metrics.json").is_file():
            settings = {"model.teacher": teacher / folder, "training.output_dir": student, "training.seed": seed}
            settings |= {"training.report_to": "none", "training.save_strategy": "no"}
            command("hf-ssl", "distill", f"distil_{run}", *(f"{key}={value}" for key, value in settings.items()))
        encoders = {"teacher": teacher / "encoder", "**distilled**": student / "encoder"}
        if kept is not None:
            if not (pruned / "config.json").is_file():
                command("hf-ssl", "prune", str(teacher / "encoder"), "--keep", kept, "--output", str(pruned))
            encoders["the same layers of the teacher"] = pruned
        for title, encoder in encoders.items():
            result = evaluate_encoder(encoder, data, layers=example.layers)
            rows = {title: result.row("encoder", METHOD)}
            if title == "**distilled**" and seed == seeds[0]:
                rows |= {each.features: each for each in result.rows if each.method == METHOD}
                del rows["encoder"]
            for name, each in rows.items():
                scores = found.setdefault(name, {score: [] for score in SCORES})
                for score in SCORES:
                    scores[score] += [measured.scores[score] for measured in each.runs]
    return {
        "run": run,
        "data": result.data,
        "label": result.label,
        "num_items": result.num_items,
        "num_classes": result.num_classes,
        "seeds": seeds,
        "hardware": describe_hardware(),
        "versions": versions(),
        "scores": found,
    }


def table(result: dict) -> str:
    """A run's table, with what is needed to read and to repeat it."""
    objective = RUNS[result["run"]][0]
    items, software = result["num_items"], ", ".join(f"{name} {v}" for name, v in result["versions"].items())
    seeds = ", ".join(map(str, result["seeds"]))
    return "\n".join(
        [
            "| frozen features | accuracy | balanced accuracy |",
            "|---|---:|---:|",
            *(f"| {title} | {' | '.join(map(cell, scores.values()))} |" for title, scores in result["scores"].items()),
            "",
            f"`distil_{result['run']}`; linear probe on `{result['data']}`, label `{result['label']}` "
            f"({result['num_classes']} classes; {items['train']} items to fit on, {items['validation']} to choose on, "
            f"{items['test']} to test on, which the scores are of). Mean ± standard deviation over seeds {seeds} of "
            "the teacher and of the distillation, or over three untrained students; raw features have no seed. "
            f"{result['hardware']}; {software}.",
            "",
            f"Command: `python benchmarks/students.py --runs {result['run']}` after "
            f"`python benchmarks/embedded.py --runs {objective}`",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12, 13])
    parser.add_argument("--teachers", type=Path, default=Path("runs/embedded"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/students"), help="folder (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    args = parser.parse_args()
    for run in [] if args.write else args.runs:
        result = measure(run, args.seeds, args.teachers.resolve(), args.output.resolve())
        (RESULTS / f"students_{run}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(result), flush=True)
    files = {run: RESULTS / f"students_{run}.json" for run in RUNS}
    tables = [table(json.loads(file.read_text(encoding="utf-8"))) for file in files.values() if file.is_file()]
    if tables:
        replace_between(CARD, "results", "\n\n".join(tables))


if __name__ == "__main__":
    main()

"""Every objective on the embedded data, with three seeds, beside random initialisation and raw features.

    python benchmarks/embedded.py [--runs simclr hubert bert ...] [--seeds 11 12 13] [--output runs/embedded]
    python benchmarks/embedded.py --write        only renew the tables in the cards and in README from the stored
    results

Each seed pretrains with the objective's recipe for the embedded data and evaluates the encoder as `hf-ssl evaluate`
does. The results are kept in `benchmarks/results/embedded_<run>.json`; the tables are made of them. A run is an
objective with its recipe for the embedded data, or a variant with a recipe of its own, such as WavLM's HuBERT.
"""

import argparse
import json
import re
import statistics
from pathlib import Path

from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.cli.quickstart import EXAMPLES
from hf_ssl.evaluation.evaluate import evaluate_encoder, versions
from hf_ssl.evaluation.result import EvaluationResult
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.modeling import OBJECTIVES
from hf_ssl.trainers.run import pretrain

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = {name: (name, row.recipes[-1]) for name, row in OBJECTIVES.items()} | {"wavlm": ("hubert", "wavlm_asterisk")}
"""What is measured: the objective and its recipe."""
COMMAND = "python benchmarks/embedded.py --runs {name}"
SEEDS = [11, 12, 13]
"""Of the pretraining; none of them was used while the recipes' settings were being settled."""
SHOWN = ("accuracy", "balanced_accuracy")
"""On the test items. The accuracy on the validation items stands beside them."""
FEATURES = ("encoder", "random initialisation")


def measure(name: str, seeds: list[int], output: Path) -> dict:
    """Pretrain and evaluate with every seed; what is done already is kept."""
    objective, recipe = RUNS[name]
    example = EXAMPLES[OBJECTIVES[objective].modality]
    evaluations = []
    for seed in seeds:
        folder = output / f"{name}_seed{seed}"
        settings = [f"training.output_dir={folder}", f"training.seed={seed}", "training.report_to=none"]
        run = read_pretraining(recipe, settings)
        if not (folder / "metrics.json").is_file():
            pretrain(run, command=f"hf-ssl pretrain {recipe} training.seed={seed}", resume=True)
        evaluations.append(evaluate_encoder(folder / "encoder", example.labelled(run.data), layers=example.layers))
    return {
        "run": name,
        "recipe": recipe,
        "label": example.label,
        "data": evaluations[0].data,
        "num_items": evaluations[0].num_items,
        "num_classes": evaluations[0].num_classes,
        "seeds": seeds,
        "hardware": describe_hardware(),
        "versions": versions(),
        "rows": merge_rows(evaluations),
    }


def merge_rows(evaluations: list[EvaluationResult]) -> list[dict]:
    """The pretrained encoders' scores of all seeds; the baselines, which are the same in each evaluation, of one."""
    encoders = [row for evaluation in evaluations for row in evaluation.rows if row.features == "encoder"]
    baselines = [row for row in evaluations[0].rows if row.features != "encoder"]
    merged: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in encoders + baselines:
        scores = merged.setdefault((row.features, row.method), {score: [] for score in (*SHOWN, "validation")})
        for score in SHOWN:
            scores[score] += [run.scores[score] for run in row.runs]
        scores["validation"] += [run.validation_accuracy for run in row.runs]
    return [{"features": f, "method": m, "scores": scores} for (f, m), scores in merged.items()]


def table(result: dict) -> str:
    """The measured table of one objective, with what is needed to read and to repeat it."""
    lines = [
        "| frozen features | method | accuracy | balanced accuracy | accuracy on validation |",
        "|---|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        title = "**pretrained**" if row["features"] == "encoder" else row["features"]
        lines.append(f"| {title} | {row['method']} | " + " | ".join(map(cell, row["scores"].values())) + " |")
    items = result["num_items"]
    software = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    seeds = ", ".join(map(str, result["seeds"]))
    lines += [
        "",
        f"`{result['data']}`, label `{result['label']}` ({result['num_classes']} classes): {items['train']} items to "
        f"fit on, {items['validation']} to choose on, {items['test']} to test on. Scores are of the test items unless "
        f"said otherwise. Mean ± standard deviation over seeds {seeds} of the pretraining, or over three untrained "
        f"encoders; raw features have no seed. {result['hardware']}; {software}.",
        "",
        f"Command: `{COMMAND.format(name=result['run'])}`",
    ]
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """Mean and spread."""
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def overview(results: dict[str, dict]) -> str:
    """README's table: one line an objective, linear probe, balanced accuracy."""
    header = [
        "objective",
        "modality",
        "paper",
        "recipes",
        "data, label",
        "pretrained",
        "random weights",
        "raw features",
    ]
    lines = [f"| {' | '.join(header)} |", "|---|---|---|---|---|---:|---:|---:|"]
    for name, row in OBJECTIVES.items():
        recipes = ", ".join(f"`{recipe}`" for recipe in row.recipes)
        cells = [f"[{row.title}](model_cards/{row.card})", row.modality, row.paper, recipes]
        if name in results:
            cells += measured_cells(results[name])
        else:
            cells += compared_cells(name)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured_cells(result: dict) -> list[str]:
    """The last cells of an objective's line."""
    probes = [row for row in result["rows"] if row["method"] == "linear probe"]
    scores = {row["features"]: cell(row["scores"]["balanced_accuracy"]) for row in probes}
    raw = next(features for features in scores if features not in FEATURES)
    return [f"`{result['data']}`, `{result['label']}`", *(scores[f] for f in FEATURES), f"{scores[raw]} ({raw})"]


def compared_cells(name: str) -> list[str]:
    """The last cells of an objective that was measured beside others (`compared.py`), in the first such table."""
    score = "linear probe balanced_accuracy"
    for file in sorted(RESULTS.glob("compared_*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        scores = {row.get("name", row["features"]): row["scores"][score] for row in result["rows"]}
        if name in scores:
            raw = next(features for features in scores if features.startswith("pixels"))
            encoder = result["encoder"]["model_type"]
            return [
                f"`{result['data']}`, `{result['label']}` ({encoder}, {result['budget']})",
                cell(scores[name]),
                cell(scores[FEATURES[1]]),
                f"{cell(scores[raw])} ({raw})",
            ]
    return ["not measured", "", "", ""]


def replace_between(path: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- end of marker -->`."""
    old = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end of {marker} -->)", re.DOTALL)
    assert pattern.search(old), f"{path} has no place marked {marker}"
    path.write_text(pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", old), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--write", action="store_true", help="measure nothing")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in [] if args.write else args.runs:
        result = measure(name, args.seeds, args.output)
        (RESULTS / f"embedded_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(result), flush=True)
    files = {name: RESULTS / f"embedded_{name}.json" for name in RUNS}
    results = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    for name, result in results.items():
        objective, _ = RUNS[name]
        marker = "results" if name == objective else f"results of {name}"
        replace_between(ROOT / "model_cards" / OBJECTIVES[objective].card, marker, table(result))
    replace_between(ROOT / "README.md", "objectives", overview(results))


if __name__ == "__main__":
    main()

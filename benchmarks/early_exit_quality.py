"""What early exit saves on real tasks, and what it costs: encoders of text, images and speech.

    python benchmarks/early_exit_quality.py [--tasks glosses emoji speech] [--seeds 11 12 13] [--quick]
    python benchmarks/early_exit_quality.py --write        only renew the card from the stored results

MiniLM (`minilm.py` fetches it), and the SimCLR and HuBERT encoders of `embedded.py`, are fine-tuned with an exit after
every layer, and without exits. The threshold is chosen on validation, once for at most one point of accuracy
lost, once for a measured speed of 1.5 times full depth's, and the model is then scored and timed on the test items,
side by side with its own full depth. Every step is a command of hf-ssl, which is printed, and is left out where its
output is there. The results are kept in `benchmarks/results/early_exit_<task>.json`; the tables of
`model_cards/early_exit.md` are made of them.
"""

import argparse
import json
import statistics
from pathlib import Path

from embedded import RESULTS, ROOT, replace_between
from tuners import command

from hf_ssl.evaluation.evaluate import versions
from hf_ssl.hub.environment import describe_hardware

TASKS = {
    "glosses": {
        "model.encoder": "runs/minilm/encoder",
        "model.task": "text-classification",
        "data.path": "sample:glosses",
        "data.label_column": "label",
        "data.max_length": "48",
        "training.max_steps": "600",
        "training.learning_rate": "2e-4",
        "training.per_device_train_batch_size": "32",
        "training.per_device_eval_batch_size": "64",
    },
    "emoji": {
        "recipe": "finetune_emoji_lora",
        "model.tuner": "none",
        "model.encoder": "runs/embedded/simclr_seed{seed}/encoder",
        "training.learning_rate": "1e-3",
    },
    "speech": {
        "recipe": "finetune_speech_lora",
        "model.tuner": "none",
        "model.encoder": "runs/embedded/hubert_seed{seed}/encoder",
        "training.learning_rate": "1e-3",
    },
}
EXITS = {"model.exits.layers": "all", "training.exit_scheme": "depth_weighted"}
POOLING = {"glosses": {"model.exits.pooling": "mean"}}
"""MiniLM was trained by the mean of its tokens: in 600 steps its class token says nothing after layers 1 to 3."""
GOALS = {
    "loss": (["--loss", "0.01"], []),
    "speed": (["--speed", "1.5", "--measured"], ["--points", "2"]),
}
"""Options of `exits calibrate` and of `exits curve`."""
TITLES = {"loss": "one point lost on validation", "speed": "1.5 times as fast on validation"}
CARD = ROOT / "model_cards" / "early_exit.md"


def fine_tuned(task: str, seed: int, output: Path, exits: bool, quick: bool) -> Path:
    """The folder of a fine-tuned model."""
    folder = output / f"{task}_{'exits' if exits else 'plain'}_seed{seed}"
    settings = {key: value.format(seed=seed) for key, value in TASKS[task].items()}
    if exits:
        settings |= EXITS | POOLING.get(task, {})
    recipe = [settings.pop("recipe")] if "recipe" in settings else []
    settings |= {"training.output_dir": str(folder), "training.seed": str(seed)}
    settings |= {"training.report_to": "none", "training.save_strategy": "no"}
    if quick:
        settings["training.max_steps"] = "3"
    if not (folder / "metrics.json").is_file():
        command("hf-ssl", "finetune", *recipe, *(f"{key}={value}" for key, value in settings.items()))
    return folder


def chosen_point(folder: Path, goal: str) -> tuple[dict, dict]:
    """On the test items, what the threshold that a goal leads to gives; and the whole curve."""
    kept = folder / f"curve_{goal}.json"
    if not kept.is_file():
        calibrating, drawing = GOALS[goal]
        command("hf-ssl", "exits", "calibrate", str(folder), *calibrating)
        command("hf-ssl", "exits", "curve", str(folder), *drawing)
        kept.write_text(json.dumps(read(folder)["exit_curve"]), encoding="utf-8")
    curve = json.loads(kept.read_text(encoding="utf-8"))
    points = {point["threshold"]: point for point in curve["points"]}
    # Where nothing leaves early there is no threshold, and the curve's first point is full depth.
    return points.get(curve["settings"]["chosen_threshold"], curve["points"][0]), curve


def read(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def measure(task: str, seeds: list[int], output: Path, quick: bool) -> dict:
    """By seed, what was measured of the test items."""
    rows = []
    for seed in seeds:
        plain = read(fine_tuned(task, seed, output, exits=False, quick=quick))
        folder = fine_tuned(task, seed, output, exits=True, quick=quick)
        facts = read(folder)
        (fast, _), (cautious, curve) = chosen_point(folder, "speed"), chosen_point(folder, "loss")
        rows.append(
            {
                "seed": seed,
                "without exits": plain["test"]["accuracy"],
                "full depth": facts["test"]["accuracy"],
                **{
                    goal: {"accuracy": point["scores"]["accuracy"], "depth": point["depth"], "time": point["time"]}
                    for goal, point in (("loss", cautious), ("speed", fast))
                },
                "by layer": {layer: scores["accuracy"] for layer, scores in facts["exits"]["test"].items()},
                "area": curve["areas"]["depth"]["accuracy"],
            }
        )
    return {"task": task, "rows": rows, "hardware": describe_hardware(), "versions": versions()}


def spread(values: list[float], scale: float = 1.0) -> str:
    """Mean ± standard deviation."""
    scaled = [scale * value for value in values]
    deviation = f" ± {statistics.stdev(scaled):.2f}" if len(scaled) > 1 else ""
    return f"{statistics.mean(scaled):.2f}{deviation}"


def table(result: dict) -> str:
    """A task's table, with what is needed to read and to repeat it."""
    rows = result["rows"]
    figures = {
        "accuracy without exits": spread([row["without exits"] for row in rows], 100),
        "accuracy at full depth": spread([row["full depth"] for row in rows], 100),
    }
    for goal, title in TITLES.items():
        found = [(row["full depth"], row[goal]) for row in rows if goal in row]
        if found:
            figures |= {
                f"{title}: points lost to full depth": spread([full - each["accuracy"] for full, each in found], 100),
                f"{title}: layers used, of full depth": spread([each["depth"] for _, each in found]),
                f"{title}: times as fast, batch 32": spread([1 / each["time"]["32"] for _, each in found]),
                f"{title}: times as fast, batch 1": spread([1 / each["time"]["1"] for _, each in found]),
            }
    figures["area under accuracy by layers"] = spread([row["area"] for row in rows], 100)
    figures |= {
        f"accuracy of the exit after layer {layer}": spread([row["by layer"][layer] for row in rows], 100)
        for layer in rows[0]["by layer"]
    }
    software = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    seeds = ", ".join(str(row["seed"]) for row in rows)
    return "\n".join(
        [
            "| test items | |",
            "|---|---:|",
            *(f"| {name} | {value} |" for name, value in figures.items()),
            "",
            f"Mean ± standard deviation over seeds {seeds}; accuracies in per cent. {result['hardware']}; {software}.",
            "",
            f"Command: `python benchmarks/early_exit_quality.py --tasks {result['task']}`",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12, 13])
    parser.add_argument("--output", type=Path, default=Path("runs/early_exit"), help="folder (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three steps each, to see that it works")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    args = parser.parse_args()
    for task in [] if args.write else args.tasks:
        output = args.output.resolve() / ("quick" if args.quick else "")
        result = measure(task, args.seeds, output, args.quick)
        print(f"\n{table(result)}", flush=True)
        if not args.quick:
            (RESULTS / f"early_exit_{task}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for task in [] if args.quick else TASKS:
        file = RESULTS / f"early_exit_{task}.json"
        if file.is_file():
            replace_between(CARD, task, table(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()

"""What early exit saves on real tasks, and what it costs: encoders of text, images and speech.

    python benchmarks/early_exit_quality.py [--tasks glosses emoji speech] [--seeds 11 12 13] [--quick]
    python benchmarks/early_exit_quality.py --write        only renew the card from the stored results

MiniLM (`minilm.py` fetches it), and the SimCLR and HuBERT encoders of `embedded.py`, are fine-tuned with an exit after
every layer, and without exits. The threshold is chosen on validation for at most one point of accuracy lost, and
the model is then scored and timed on the test items, side by side with its own full depth. Every step is a command
of hf-ssl, which is printed, and is left out where its output is there. The results are kept in
`benchmarks/results/early_exit_<task>.json`; the tables of `model_cards/early_exit.md` are made of them.
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
LOSS = "0.01"
BATCH = "32"
CARD = ROOT / "model_cards" / "early_exit.md"


def fine_tuned(task: str, seed: int, output: Path, exits: bool, quick: bool) -> Path:
    """The folder of a fine-tuned model; with exits, calibrated and with its curve."""
    folder = output / f"{task}_{'exits' if exits else 'plain'}_seed{seed}"
    settings = {key: value.format(seed=seed) for key, value in TASKS[task].items()} | (
        EXITS | POOLING.get(task, {}) if exits else {}
    )
    recipe = [settings.pop("recipe")] if "recipe" in settings else []
    settings |= {"training.output_dir": str(folder), "training.seed": str(seed)}
    settings |= {"training.report_to": "none", "training.save_strategy": "no"}
    if quick:
        settings["training.max_steps"] = "3"
    if not (folder / "metrics.json").is_file():
        command("hf-ssl", "finetune", *recipe, *(f"{key}={value}" for key, value in settings.items()))
    if exits and "exit_curve" not in read(folder):
        command("hf-ssl", "exits", "calibrate", str(folder), "--loss", LOSS)
        command("hf-ssl", "exits", "curve", str(folder))
    return folder


def read(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def measure(task: str, seeds: list[int], output: Path, quick: bool) -> dict:
    """By seed, what was measured of the test items."""
    rows = []
    for seed in seeds:
        plain = read(fine_tuned(task, seed, output, exits=False, quick=quick))
        facts = read(fine_tuned(task, seed, output, exits=True, quick=quick))
        curve = facts["exit_curve"]
        points = {point["threshold"]: point for point in curve["points"]}
        # Where nothing leaves early there is no threshold, and the curve's first point is full depth.
        chosen = points.get(curve["settings"]["chosen_threshold"], curve["points"][0])
        rows.append(
            {
                "seed": seed,
                "without exits": plain["test"]["accuracy"],
                "full depth": facts["test"]["accuracy"],
                "accuracy": chosen["scores"]["accuracy"],
                "depth": chosen["depth"],
                "time": chosen["time"],
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
        "accuracy with exits": spread([row["accuracy"] for row in rows], 100),
        "points lost to full depth": spread([row["full depth"] - row["accuracy"] for row in rows], 100),
        "layers used, of full depth": spread([row["depth"] for row in rows]),
        f"times as fast, batch {BATCH}": spread([1 / row["time"][BATCH] for row in rows]),
        "times as fast, batch 1": spread([1 / row["time"]["1"] for row in rows]),
        "area under accuracy by layers": spread([row["area"] for row in rows], 100),
    }
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

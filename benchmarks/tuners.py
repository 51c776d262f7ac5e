"""Ways to fine-tune a published encoder of text, compared on two tasks: score against trained parameters.

    python benchmarks/tuners.py [--tasks glosses spam] [--output runs/minilm] [--quick]
    python benchmarks/tuners.py --write        only renew the card from the stored results

Fetches MiniLM and the mails (`minilm.py`), and fine-tunes the encoder with every tuner by `hf-ssl sweep`, whose
command is printed: each tuner chooses among five learning rates by the validation score of its first seed, and has
three seeds. What is done already is kept. The results are kept in `benchmarks/results/tuners_<task>.json`; the tables
and plots of `model_cards/tuners.md` are made of them. `--quick` runs the same with a few steps each, to see that it
works.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from embedded import RESULTS, ROOT, replace_between

from hf_ssl.cli.sweep import PLOT_FILE, table
from hf_ssl.evaluation.evaluate import versions
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.trainers.sweep import REPORT_FILE, Compared

TUNERS = ["none", "lora", "pfeiffer", "prefix", "deep_prompt", "bitfit", "head"]
SEEDS = ["11", "12", "13"]
LEARNING_RATES = ["1e-4", "3e-4", "1e-3", "3e-3", "1e-2"]
TASKS = {
    "glosses": {"data.path": "sample:glosses", "data.max_length": "32", "training.max_steps": "300"},
    "spam": {"data.path": "{output}/spam", "data.max_length": "48", "training.max_steps": "100"},
}
"""What each task's runs have of their own."""
COMMON = {
    "model.encoder": "{output}/encoder",
    "model.task": "text-classification",
    "data.label_column": "label",
    "training.per_device_train_batch_size": "32",
    "training.per_device_eval_batch_size": "64",
    "training.warmup_steps": "0.1",
    "training.report_to": "none",
    "training.save_strategy": "no",
    "training.output_dir": "{output}/tuners_{task}",
}
CARD = ROOT / "model_cards" / "tuners.md"


def command(*words: str) -> None:
    """Run a command in a process of its own."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    program = [sys.executable, "-m", "hf_ssl.cli.main"] if words[0] == "hf-ssl" else [sys.executable]
    subprocess.run([*program, *words[1:]], check=True, cwd=ROOT)


def measure(task: str, output: Path, quick: bool) -> dict:
    """One sweep; its rows, and what is needed to read them."""
    settings = COMMON | TASKS[task]
    if quick:
        settings |= {"training.max_steps": "3", "data.max_train_items": "200"}
        settings["training.output_dir"] = "{output}/quick_{task}"
    overrides = [f"{key}={value.format(output=output, task=task)}" for key, value in settings.items()]
    few = slice(2) if quick else slice(None)
    compared = ["--tuners", *TUNERS[few], "--seeds", *SEEDS[few], "--learning-rates", *LEARNING_RATES[few]]
    command("hf-ssl", "sweep", *overrides, *compared)
    folder = Path(settings["training.output_dir"].format(output=output, task=task))
    if not quick:
        (CARD.parent / "figures").mkdir(exist_ok=True)
        shutil.copy(folder / PLOT_FILE, CARD.parent / "figures" / f"tuners_{task}.svg")
    rows = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    for row in rows:
        del row["statistics"]
    return {
        "task": task,
        "settings": TASKS[task],
        "seeds": SEEDS,
        "learning_rates": LEARNING_RATES,
        "hardware": describe_hardware(),
        "versions": versions(),
        "rows": rows,
    }


def section(result: dict) -> str:
    """The table of a task, its plot, and what is needed to repeat it."""
    rows = [Compared(**row) for row in result["rows"]]
    software = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    steps = result["settings"]["training.max_steps"]
    return "\n".join(
        [
            table(rows),
            "",
            f"![score against trained parameters](figures/tuners_{result['task']}.svg)",
            "",
            f"{steps} steps of 32 texts of at most {result['settings']['data.max_length']} tokens; mean ± standard "
            f"deviation over seeds {', '.join(result['seeds'])} of the head, the adapter and the order of the data; "
            f"learning rates chosen from {', '.join(result['learning_rates'])} by the first seed's validation score. "
            f"{result['hardware']}; {software}.",
            "",
            f"Command: `python benchmarks/tuners.py --tasks {result['task']}`",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--output", type=Path, default=Path("runs/minilm"), help="folder (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it works")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if not args.write and not (args.output / "encoder" / "vocab.txt").is_file():  # written last
        command("python", "benchmarks/minilm.py", "--output", str(args.output.resolve()))
    for task in [] if args.write else args.tasks:
        result = measure(task, args.output.resolve(), args.quick)
        if not args.quick:
            (RESULTS / f"tuners_{task}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for task in [] if args.quick else TASKS:
        file = RESULTS / f"tuners_{task}.json"
        if file.is_file():
            replace_between(CARD, task, section(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()

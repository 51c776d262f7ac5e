"""Every speech objective's encoder fine-tuned to write down what it hears, beside the same encoder from scratch.

    python benchmarks/embedded_ctc.py [--runs hubert wav2vec2 ...] [--longer] [--seeds 11 12 13]
    python benchmarks/embedded_ctc.py --write        only renew the tables in the cards from the stored results

The pretrained encoders are those of `embedded.py` (`--output` is its folder). An encoder from scratch has the same
architecture with fresh weights. Both are fine-tuned alike, by the recipe `finetune_speech_ctc`, and the CNN with the
rest, since from scratch it has to be learned. `--longer` fine-tunes with the steps and the learning rate at which
every architecture learns to write from scratch. The results are kept in `benchmarks/results/ctc_<run>.json` and
`longer_ctc_<run>.json`; the tables are made of them.
"""

import argparse
import json
from pathlib import Path

from embedded import RESULTS, ROOT, RUNS, SEEDS, cell, replace_between
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, set_seed

from hf_ssl.cli.finetune import read_fine_tuning
from hf_ssl.evaluation.evaluate import versions
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.modeling import OBJECTIVES
from hf_ssl.trainers.fine_tuning import fine_tune

RECIPE = "finetune_speech_ctc"
SPEECH = [name for name, (objective, _) in RUNS.items() if OBJECTIVES[objective].modality == "speech"]
STARTS = ("pretrained", "from scratch")
BUDGETS: dict[str, dict[str, str]] = {
    "ctc": {},
    "longer_ctc": {"training.max_steps": "2000", "training.learning_rate": "1e-3"},
}
"""By the name of a budget, what it changes of the recipe."""
MARKERS = {"ctc": "recognition", "longer_ctc": "longer recognition"}
"""Where a budget's table stands in the cards."""


def fresh_encoder(encoder: Path, output: Path, seed: int) -> Path:
    """An encoder of the same architecture with random weights, and its preprocessor."""
    set_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(encoder)).save_pretrained(output)
    AutoFeatureExtractor.from_pretrained(encoder).save_pretrained(output)
    return output


def fine_tuned(encoder: Path, output: Path, seed: int, budget: str) -> dict[str, dict[str, float]]:
    """The metrics of a fine-tuning; what is done already is kept."""
    if not (output / "metrics.json").is_file():
        settings = {
            "model.encoder": encoder,
            "model.freeze_feature_encoder": "false",  # from scratch, the CNN has to be learned
            "training.output_dir": output,
            "training.seed": seed,
            "training.report_to": "none",
            "training.save_strategy": "no",
        } | BUDGETS[budget]
        run = read_fine_tuning(RECIPE, [f"{key}={value}" for key, value in settings.items()])
        fine_tune(run, command=f"hf-ssl finetune {RECIPE} training.seed={seed}")
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def measure(name: str, seeds: list[int], output: Path, budget: str) -> dict:
    scores: dict[str, dict[str, list[float]]] = {
        start: {f"{split} {metric}": [] for split in ("validation", "test") for metric in ("cer", "wer")}
        for start in STARTS
    }
    for seed in seeds:
        pretrained = output / f"{name}_seed{seed}" / "encoder"
        fresh = fresh_encoder(pretrained, output / f"{name}_fresh{seed}", seed)
        for start, encoder in zip(STARTS, (pretrained, fresh), strict=True):
            folder = output / f"{name}_{budget}_{start.replace(' ', '_')}_{seed}"
            metrics = fine_tuned(encoder, folder, seed, budget)
            for column, values in scores[start].items():
                split, metric = column.split()
                values.append(metrics[split][metric])
    settings = [f"{key}={value}" for key, value in BUDGETS[budget].items()]
    run = read_fine_tuning(RECIPE, ["model.encoder=none", *settings])
    return {
        "run": name,
        "budget": budget,
        "recipe": RECIPE,
        "data": run.data.path,
        "max_steps": run.training.max_steps,
        "learning_rate": run.training.learning_rate,
        "seeds": seeds,
        "hardware": describe_hardware(),
        "versions": versions(),
        "scores": scores,
    }


def table(result: dict) -> str:
    """The measured table of one objective, with what is needed to read and to repeat it."""
    lines = [
        "| encoder | CER on validation | CER | WER |",
        "|---|---:|---:|---:|",
    ]
    for start in STARTS:
        cells = [cell(result["scores"][start][column]) for column in ("validation cer", "test cer", "test wer")]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    software = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines += [
        "",
        f"`{result['data']}`, fine-tuned with CTC by `{result['recipe']}` ({result['max_steps']} steps at "
        f"{result['learning_rate']:g} from either start, the CNN learns in both; greedy decoding). Error rates of "
        "characters and words on the test items unless said otherwise; mean ± "
        f"standard deviation over seeds {', '.join(map(str, result['seeds']))} of pretraining, of the fresh weights "
        f"and of the fine-tuning. {result['hardware']}; {software}.",
        "",
        f"Command: `python benchmarks/embedded_ctc.py --runs {result['run']}"
        f"{' --longer' if result['budget'] == 'longer_ctc' else ''}` after "
        f"`python benchmarks/embedded.py --runs {result['run']}`",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=SPEECH, default=SPEECH)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--longer", action="store_true", help="fine-tune with 2,000 steps at 1e-3")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    args = parser.parse_args()
    budget = "longer_ctc" if args.longer else "ctc"
    for name in [] if args.write else args.runs:
        result = measure(name, args.seeds, args.output, budget)
        (RESULTS / f"{budget}_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(result), flush=True)
    for name in SPEECH:
        objective, _ = RUNS[name]
        variant = "" if name == objective else f" with {name}"
        for budget, marker in MARKERS.items():
            file = RESULTS / f"{budget}_{name}.json"
            if file.is_file():
                result = json.loads(file.read_text(encoding="utf-8"))
                replace_between(ROOT / "model_cards" / OBJECTIVES[objective].card, marker + variant, table(result))


if __name__ == "__main__":
    main()

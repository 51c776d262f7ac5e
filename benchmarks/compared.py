"""Every objective of images on the embedded emoji: one encoder, one budget, three seeds, beside untrained and pixels.

    python benchmarks/compared.py [--sets resnet vit igpt] [--output runs/compared]
    python benchmarks/compared.py --write        only renew the tables in the cards and README from the stored results

Each set is one `hf-ssl compare`, whose command is printed and stands under its table: a small ResNet for the
objectives of whole images; a small ViT for those of patches, with some of the others for comparison; and iGPT, whose
encoder is its own. What is done already is kept. The results are kept in `benchmarks/results/compared_<set>.json`; the
tables are made of them.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from embedded import RESULTS, ROOT, cell, replace_between
from tuners import command

from hf_ssl.modeling import OBJECTIVES

SHARED = ["--data", "sample:emoji", "--label", "category", "--seeds", "11", "12", "13"]
"""The seeds were not used while the budgets and the recipes' settings were being settled."""
WHOLE = (
    "rotation,context_prediction,jigsaw,simclr,moco,moco_v3,nnclr,deepcluster,deepcluster_v2,swav,byol,simsiam,dino,"
    "barlow_twins,vicreg"
)
PATCHES = "mae,beit,simmim,masked_patch,data2vec_vision,ijepa,ibot,dino,moco_v3,simclr"
SETS = {
    # a ResNet has no projection of patches that could stay as it was drawn
    "resnet": [
        *["--encoder", "resnet", "--budget", "630", "moco_v3.model.freeze_patch_embedding=false"],
        *["--objectives", WHOLE],
    ],
    "vit": ["--encoder", "vit", "--budget", "1000", "encoder.patch_size=8", "--objectives", PATCHES],
    "igpt": ["--encoder", "imagegpt", "--image-size", "16", "--budget", "1000", "--objectives", "igpt"],
}
TITLES = {"resnet": "ResNet", "vit": "ViT", "igpt": "image GPT"}
METHODS = ("linear probe", "kNN")
SCORES = ("balanced_accuracy", "accuracy")

Row = dict[str, Any]


def measure(name: str, output: Path) -> dict[str, Any]:
    """One comparison; of what it wrote, what the tables are made of."""
    words = ["compare", *SHARED, *SETS[name]]
    command("hf-ssl", *words, "--output", str(output / name))
    found = json.loads((output / name / "comparison.json").read_text(encoding="utf-8"))
    rows = [
        {
            "features": objective["title"],
            "name": objective["name"],
            "scores": scores_of([seed["judgement"]["measurements"] for seed in objective["seeds"]]),
            "effective_rank": [seed["judgement"]["collapse"]["effective_rank"] for seed in objective["seeds"]],
            "encoder_passes": max(entry.get("encoder_passes", 0) for entry in objective["seeds"][0]["log"]),
        }
        for objective in found["objectives"]
        if objective["seeds"]
    ]
    for features in dict.fromkeys(row["features"] for row in found["baselines"]):
        runs = {row["method"]: row["runs"] for row in found["baselines"] if row["features"] == features}
        measurements = [dict(zip(runs, each, strict=True)) for each in zip(*runs.values(), strict=True)]
        rows.append({"features": features, "scores": scores_of(measurements)})
    shared = {
        key: found["settings"][key] for key in ("data", "label", "image_size", "batch_size", "budget", "encoder")
    }
    return {
        "set": name,
        "command": shlex.join(["hf-ssl", *words]),
        **shared,
        "seeds": found["settings"]["seeds"],
        "num_items": found["items"]["num_items"],
        "num_classes": found["items"]["num_classes"],
        "hardware": found["hardware"],
        "versions": found["versions"],
        "rows": rows,
    }


def scores_of(measurements: list[Row]) -> dict[str, list[float]]:
    """By method and score, the values of all seeds on the test items."""
    return {f"{m} {s}": [each[m]["scores"][s] for each in measurements] for m in METHODS for s in SCORES}


def table(result: dict[str, Any], only: str | None = None) -> str:
    """A comparison, the best first, or one objective of it beside the best and what nobody had to learn."""
    rows = sorted(result["rows"], key=lambda row: -mean(row))
    learned = [row for row in rows if "name" in row]
    if only is not None:
        rows = [row for row in rows if row is learned[0] or row.get("name", only) == only]
    lines = [
        "| frozen features | linear probe: balanced accuracy | accuracy | kNN: balanced accuracy | accuracy "
        "| effective rank | encoder passes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        title = f"**{row['features']}**" if "name" in row else row["features"]
        rank = cell(row["effective_rank"]) if "effective_rank" in row else ""
        passes = f"{row['encoder_passes']:,.0f}" if "encoder_passes" in row else ""
        lines.append(f"| {title} | " + " | ".join([*map(cell, row["scores"].values()), rank, passes]) + " |")
    return "\n".join([*lines, "", legend(result)])


def mean(row: Row) -> float:
    values = row["scores"][f"{METHODS[0]} {SCORES[0]}"]
    return sum(values) / len(values)


def legend(result: dict[str, Any]) -> str:
    """What is needed to read a table and to repeat it."""
    items, encoder = result["num_items"], result["encoder"]
    sizes = ", ".join(f"{key} {value}" for key, value in encoder.items())
    software = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"`{result['data']}`, label `{result['label']}` ({result['num_classes']} classes): {items['train']} items to "
        f"pretrain and to fit on, {items['validation']} to choose layer and settings on, {items['test']} to test on; "
        f"{result['image_size']} pixels. One encoder for all ({sizes}), {result['budget']} with batches of "
        f"{result['batch_size']}. Scores are of the test items; mean ± standard deviation over seeds "
        f"{', '.join(map(str, result['seeds']))} of the pretraining, or over three untrained encoders. An encoder "
        f"pass is one whole image through the encoder or its teacher. {result['hardware']}; {software}.\n\n"
        f"Command: `{result['command']}`"
    )


def write(results: dict[str, dict[str, Any]]) -> None:
    """Renew README and the cards."""
    sections = [f"### Images, {TITLES[name]}\n\n{table(result)}" for name, result in results.items()]
    replace_between(ROOT / "README.md", "images", "\n\n".join(sections))
    for objective, row in OBJECTIVES.items():
        found = {name: r for name, r in results.items() if any(each.get("name") == objective for each in r["rows"])}
        if found:
            text = "\n\n".join(f"{TITLES[name]}:\n\n{table(result, objective)}" for name, result in found.items())
            replace_between(ROOT / "model_cards" / row.card, "comparison", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--output", type=Path, default=Path("runs/compared"), help="folder (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    args = parser.parse_args()
    for name in [] if args.write else args.sets:
        result = measure(name, args.output.resolve())
        (RESULTS / f"compared_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    files = {name: RESULTS / f"compared_{name}.json" for name in SETS}
    write({name: json.loads(f.read_text(encoding="utf-8")) for name, f in files.items() if f.is_file()})


if __name__ == "__main__":
    main()

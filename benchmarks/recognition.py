"""Recognition of English telephone prompts, from raw audio to word error rates: pretrained against from scratch.

    python benchmarks/recognition.py [--seeds 11] [--output runs/asterisk] [--write] [--quick]

Fetches the prompts (`asterisk.py`), pretrains HuBERT on two hours of them in five languages without transcripts,
fine-tunes that encoder and one of the same architecture with fresh weights alike, on 10 minutes and on all 15 minutes
of labelled English, builds language models of the training transcripts of each, tunes the decoders' weights on
validation and recognises the test prompts: greedily, with letters and with words. Every step is one command, which is
printed, and is left out where its output is there. The last table has 95 % bootstrap intervals over recordings.

Language models read the training transcripts alone, or with them the definitions of the sample `glosses`, which know
more words; validation and test transcripts are in none. A word that is in no language model cannot be found by the
decoder of words: the table says how many of the test's words are unknown.

`--quick` runs the same with a few steps each, to see that it works. `--write` puts the table into README.
"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from embedded import RESULTS, ROOT, replace_between
from embedded_ctc import fresh_encoder

from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.transcripts import normalise
from hf_ssl.evaluation.intervals import Difference, Interval
from hf_ssl.evaluation.recognition.error_rates import ErrorCounts, count_errors
from hf_ssl.evaluation.recognition.ngram import read_words
from hf_ssl.evaluation.recognition.recognise import percent

STARTS = ("from scratch", "pretrained")
LABELLED = {"10 min": ("en_10min", "train_10min"), "15 min": ("en", "train")}
"""Folder of the data and name of the text, by what there is of it."""


@dataclass(frozen=True)
class LanguageModel:
    """One way of decoding.

    Args:
        title (`str`): in the table.
        decoder (`str`): that reads it.
        unit (`str`): what it predicts.
        order (`int`): of its n-grams.
        glosses (`bool`): whether it reads definitions, too.
    """

    title: str
    decoder: str
    unit: str
    order: int
    glosses: bool = False


LANGUAGE_MODELS = {
    "letters": LanguageModel("letters, 6-gram", "letters", "letters", 6),
    "words": LanguageModel("words, 3-gram", "words", "words", 3),
    "glosses": LanguageModel("words, 3-gram with glosses", "words", "words", 3, glosses=True),
}


def command(*words: object) -> None:
    """Run one command of hf-ssl in a process of its own."""
    argv = [str(word) for word in words]
    print(f"\n$ {shlex.join(argv)}", flush=True)
    program = [sys.executable, "-m", "hf_ssl.cli.main"] if argv[0] == "hf-ssl" else [sys.executable]
    subprocess.run([*program, *argv[1:]], check=True, cwd=ROOT)


def pretrain(folder: Path, data: Path, seed: int, quick: bool) -> Path:
    if not (folder / "encoder" / "config.json").is_file():
        steps = ["training.max_steps=10", "training.save_steps=10", "training.warmup_steps=1"] if quick else []
        settings = {"data.path": data, "training.output_dir": folder, "training.seed": seed}
        overrides = [f"{key}={value}" for key, value in settings.items()]
        command("hf-ssl", "pretrain", "hubert_asterisk", *overrides, "training.report_to=none", *steps, "--resume")
    return folder / "encoder"


def fine_tune(folder: Path, encoder: Path, data: Path, seed: int, quick: bool) -> Path:
    if not (folder / "metrics.json").is_file():
        steps = ["training.max_steps=10"] if quick else []
        settings = {
            "model.encoder": encoder,
            "data.path": data,
            "training.output_dir": folder,
            "training.seed": seed,
            "training.report_to": "none",
            "training.save_strategy": "no",
        }
        overrides = [f"{key}={value}" for key, value in settings.items()]
        command("hf-ssl", "finetune", "finetune_asterisk_english_ctc", *overrides, *steps)
    return folder


def build_lm(lm: LanguageModel, text: Path, glosses: Path, held_out: Path) -> Path:
    name = f"{text.stem}_{lm.unit}{'_glosses' if lm.glosses else ''}.arpa"
    file = text.parent / name
    if not file.is_file():
        texts = [text, glosses] if lm.glosses else [text]
        options = ["--unit", lm.unit, "--order", lm.order, "--output", file, "--held-out", held_out]
        command("hf-ssl", "lm", "--text", *texts, *options)
    return file


def recognise(model: Path, data: Path, name: str, lm: LanguageModel, file: Path, quick: bool) -> Path:
    output = model / f"recognised_{name}.json"
    if not output.is_file():
        tuning = ["--tune", "validation", "--trials", 3 if quick else 30, "--beam", 25]  # wider ones are tried, too
        options = ["--decoder", lm.decoder, "--lm", file, *tuning, "--output", output]
        command("hf-ssl", "recognise", model, "--data", data, *options)
    return output


@dataclass(frozen=True)
class Recognised:
    """What `hf-ssl recognise` wrote of the test prompts.

    Args:
        facts (`dict`): its results.
        transcripts (`list[dict]`): a row a recording.
    """

    facts: dict
    transcripts: list[dict]

    @classmethod
    def read(cls, output: Path) -> "Recognised":
        lines = output.with_suffix(".transcripts.jsonl").read_text(encoding="utf-8").splitlines()
        return cls(json.loads(output.read_text(encoding="utf-8")), [json.loads(line) for line in lines])

    def rates(self, decoder: str) -> dict[str, dict[str, float]]:
        """The intervals of greedy decoding or of the other decoder, by metric."""
        return next(s["rates"] for s in self.facts["systems"] if s["settings"]["decoder"] == decoder)

    def word_errors(self, decoder: str) -> ErrorCounts:
        references = [row["reference"] for row in self.transcripts]
        return count_errors(references, [row[decoder] for row in self.transcripts], "wer")

    def unknown(self) -> float:
        """The share of the words that are said which the language model of words lacks."""
        words = set(read_words(self.facts["systems"][1]["settings"]["lm"]))
        spoken = " ".join(row["reference"] for row in self.transcripts).split()
        return sum(word not in words for word in spoken) / len(spoken)


def measure(output: Path, seeds: list[int], quick: bool) -> dict:
    """Everything, for every seed."""
    if not (output / "licences").is_dir():  # written last
        command("python", "benchmarks/asterisk.py", "--output", output)
    glosses = output / "text" / "glosses.txt"
    if not glosses.is_file():
        texts = load_splits(TextDataArguments(path="sample:glosses"), "text")["train"]["text"]
        glosses.write_text("".join(f"{normalise(text)}\n" for text in texts), encoding="utf-8")
    rows, facts = [], {}
    for seed in seeds:
        work = output / f"{'quick' if quick else 'seed'}{seed}"
        encoders = {"pretrained": pretrain(work / "hubert", output / "unlabelled", seed, quick)}
        encoders["from scratch"] = fresh_encoder(encoders["pretrained"], work / "fresh", seed)
        for labels in LABELLED:
            results = measure_labels(output, work, encoders, labels, glosses, seed, quick)
            rows += [{"seed": seed, "labels": labels, **row} for row in compare(results)]
            facts = results["pretrained"]["letters"].facts
    known = {name: facts[name] for name in ("versions", "hardware", "num_recordings", "minutes")}
    return {"seeds": seeds, "quick": quick, "rows": rows, **known}


def measure_labels(
    output: Path, work: Path, encoders: dict[str, Path], labels: str, glosses: Path, seed: int, quick: bool
) -> dict[str, dict[str, Recognised]]:
    """Both starts, fine-tuned on so much labelled speech, recognise the test prompts in every way."""
    folder, text = LABELLED[labels]
    results: dict[str, dict[str, Recognised]] = {}
    for start in STARTS:
        name = f"{start.replace(' ', '_')}_{folder}"
        model = fine_tune(work / name, encoders[start], output / folder, seed, quick)
        results[start] = {}
        for lm_name, lm in LANGUAGE_MODELS.items():
            file = build_lm(lm, output / "text" / f"{text}.txt", glosses, output / "text" / "validation.txt")
            found = recognise(model, output / folder, lm_name, lm, file, quick)
            results[start][lm_name] = Recognised.read(found)
    return results


def compare(results: dict[str, dict[str, Recognised]]) -> list[dict]:
    """A row a way of decoding: the error rates of both starts, and the difference on the same recordings."""
    rows = []
    for name, decoder in (("letters", "greedy"), *((name, lm.decoder) for name, lm in LANGUAGE_MODELS.items())):
        of = {start: results[start][name] for start in STARTS}
        errors = {start: of[start].word_errors(decoder) for start in STARTS}
        row = {
            "decoding": "greedy" if decoder == "greedy" else LANGUAGE_MODELS[name].title,
            "rates": {start: of[start].rates(decoder) for start in STARTS},
            "difference": asdict(errors["pretrained"].less(errors["from scratch"])),
        }
        if decoder == "words":
            row["unknown"] = of["pretrained"].unknown()
        rows.append(row)
    return rows


def table(result: dict) -> str:
    """The error rates with intervals, and what is needed to read and to repeat them."""
    header = ["labelled", "seed", "decoding", *(f"WER {start}" for start in STARTS), "difference", "CER pretrained"]
    lines = [f"| {' | '.join(header)} |", "|---|---|---|---:|---:|---:|---:|"]
    for row in result["rows"]:
        title = row["decoding"] + (f" ({100 * row['unknown']:.0f} % unknown)" if "unknown" in row else "")
        cells = [row["labels"], str(row["seed"]), title]
        cells += [percent(Interval(**row["rates"][start]["wer"])) for start in STARTS]
        cells += [percent(Difference(**row["difference"])), percent(Interval(**row["rates"]["pretrained"]["cer"]))]
        lines.append(f"| {' | '.join(cells)} |")
    software = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines += [
        "",
        f"Test: {result['num_recordings']} prompts, {result['minutes']:.1f} minutes, one speaker. Per cent; brackets: "
        "95 % bootstrap interval over recordings, of the difference with both systems on the same ones. Weights and "
        "beam were chosen on validation. Unknown: words of the test that are not in the language model. "
        f"{result['hardware']}; {software}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[11])
    parser.add_argument("--output", type=Path, default=Path("runs/asterisk"), help="folder (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it works")
    parser.add_argument("--write", action="store_true", help="put the table into README")
    args = parser.parse_args()
    result = measure(args.output.resolve(), args.seeds, args.quick)
    print("\n" + table(result))
    if not args.quick:
        stored = RESULTS / "recognition.json"
        stored.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.write:
        replace_between(ROOT / "README.md", "recognition", table(result))


if __name__ == "__main__":
    main()

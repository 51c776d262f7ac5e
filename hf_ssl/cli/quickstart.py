"""`hf-ssl quickstart`: the whole way, on the embedded data, in a few minutes."""

import argparse
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_ssl.cli import figures
from hf_ssl.cli.finetune import read_fine_tuning
from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.cli.report import ModalityReport, write_report
from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.evaluation.encoders import load_encoder
from hf_ssl.evaluation.evaluate import evaluate_encoder, versions
from hf_ssl.evaluation.features import extract_features, feature_loader
from hf_ssl.evaluation.result import EvaluationResult
from hf_ssl.evaluation.splits import labelled_splits
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.hub.loading import finetuned_loading_lines, loading_lines
from hf_ssl.modeling import objective
from hf_ssl.trainers.fine_tuning import FineTuned, fine_tune
from hf_ssl.trainers.measuring import record_evaluation
from hf_ssl.trainers.run import pretrain

logger = logging.getLogger(__name__)

NUM_MAPPED = 400
"""Test items on the map."""


@dataclass(frozen=True)
class Example:
    """What the quickstart does in one modality.

    Args:
        title (`str`): heading in the report.
        idea (`str`): the objective in a sentence.
        recipe (`str`): that pretrains.
        fine_tuning (`str`): recipe of the adapter.
        label (`str`): column that the frozen features are probed for.
        score (`str`): shown of the probes; the classes are far from equally frequent.
        named_by (`str`, *optional*): column whose values name points of the map.
        steps (`int`, *optional*): of the pretraining, where the recipe's are too many for the time.
        layers (`str`): which the probes choose from, on validation: `"last"` or `"all"`.
        num_labelled (`int`, *optional*): training items whose labels the probes may use; all by default.
        labelled_path (`str`, *optional*): the data with labels, where those of the pretraining have none.
    """

    title: str
    idea: str
    recipe: str
    fine_tuning: str
    label: str
    score: str = "balanced_accuracy"
    named_by: str | None = None
    steps: int | None = None
    layers: str = "last"
    num_labelled: int | None = None
    labelled_path: str | None = None

    def labelled(self, data: DataArguments) -> DataArguments:
        """The data of the pretraining as the probes see them."""
        path = self.labelled_path or data.path
        return replace(data, path=path, label_column=self.label, max_train_items=self.num_labelled)


EXAMPLES = {
    "vision": Example(
        title="Images: SimCLR on emoji",
        idea="SimCLR learns to recognise two distorted views of one image among the views of all others.",
        recipe="simclr_emoji",
        fine_tuning="finetune_emoji_lora",
        label="category",
        steps=420,
    ),
    "speech": Example(
        title="Speech: HuBERT on telephone prompts",
        idea="HuBERT learns to predict the cluster of each masked stretch of a recording from what surrounds it.",
        recipe="hubert_asterisk",
        fine_tuning="finetune_speech_lora",
        label="group",
        steps=480,
        named_by="text",
    ),
    "text": Example(
        title="Text: BERT on dictionary definitions",
        idea="BERT learns to fill in masked tokens from both sides and to tell the next segment from a random one.",
        recipe="bert_glosses",
        fine_tuning="finetune_glosses_lora",
        label="label",
        named_by="word",
        layers="all",  # the last one serves the masked tokens
        num_labelled=2000,
        labelled_path="sample:glosses",
    ),
}


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "quickstart",
        help="pretrain, probe and fine-tune on the embedded data; about six minutes on two cores",
        description="Pretrain an encoder of images, speech and text on the data that come with the package, probe it "
        "beside random initialisation and raw features, fine-tune it with LoRA, and write a report. What a previous "
        "run has finished in the output folder is kept; delete the folder to start afresh.",
    )
    parser.add_argument("--modality", choices=EXAMPLES, help="only one of the three")
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder (default: quickstart)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Go the whole way in each modality, then write the report."""
    chosen = [args.modality] if args.modality else list(EXAMPLES)
    parts = [walk(EXAMPLES[modality], args.output / modality) for modality in chosen]
    facts = {"hardware": describe_hardware(), **versions()}
    report = write_report(args.output / "report.html", parts, facts)
    for part in parts:
        print(f"\n{part.title}: {part.result.label}, {part.score} on {part.result.num_items['test']} test items")
        for line in part.verdicts():
            print(f"  {line}")
    print(f"\nThe report: {report.resolve()}")


def walk(example: Example, output: Path) -> ModalityReport:
    """Pretrain, probe, fine-tune; each step that is done already is kept."""
    pretrained, adapted = output / "pretrained", output / "lora"
    shorter = [] if example.steps is None else [f"training.max_steps={example.steps}"]
    run = read_pretraining(example.recipe, [f"training.output_dir={pretrained}", "training.report_to=none", *shorter])
    command = " ".join(["hf-ssl pretrain", example.recipe, *shorter])
    if not (pretrained / "metrics.json").is_file():
        logger.info("\n== %s: pretraining ==", example.title)
        pretrain(run, command=command, resume=True)
    data = example.labelled(run.data)
    encoder = pretrained / "encoder"
    logger.info("\n== %s: probing the frozen features ==", example.title)
    result = evaluate_encoder(encoder, data, layers=example.layers)
    result.command = f"hf-ssl evaluate {encoder} --data {data.path} --label {example.label}"
    if example.layers != "last":
        result.command += f" --layers {example.layers}"
    if example.num_labelled is not None:
        result.command += f" data.max_train_items={example.num_labelled}"
    record_evaluation(pretrained, result, seed=run.training.seed)
    logger.info("\n== %s: fine-tuning with LoRA ==", example.title)
    overrides = [f"model.encoder={encoder}", f"training.output_dir={adapted}", "training.report_to=none"]
    adapter = fine_tune(
        read_fine_tuning(example.fine_tuning, overrides),
        command=" ".join(["hf-ssl finetune", example.fine_tuning, *overrides[:2]]),
        resume=True,
    )
    modality = objective(run.objective).modality
    return ModalityReport(
        title=example.title,
        idea=example.idea,
        command=command,
        encoder=encoder,
        seconds=json.loads((pretrained / "metrics.json").read_text(encoding="utf-8")).get("train_runtime"),
        log=json.loads((pretrained / "trainer_state.json").read_text(encoding="utf-8"))["log_history"],
        result=result,
        score=example.score,
        map_figure=draw_map(encoder, data, modality, example),
        adapters=[describe_adapter(adapter, result)],
        loading=[
            ("The encoder, with plain transformers:", loading_lines(encoder, str(encoder))),
            ("The fine-tuned model:", finetuned_loading_lines(adapted, str(adapted), {})),
        ],
    )


def describe_adapter(adapter: FineTuned, result: EvaluationResult) -> dict[str, Any]:
    """The row of the table of adapters."""
    facts = json.loads((adapter.folder / "metrics.json").read_text(encoding="utf-8"))
    return {
        "name": facts["tuner"],
        "task": f"{facts['task']}: {result.label}",
        "trained": adapter.num_trained,
        "share": adapter.num_trained / adapter.num_parameters,
        "megabytes": adapter.size_on_disk / 1e6,
        "metric": "accuracy",
        "value": facts["test"]["accuracy"],
        "folder": str(adapter.folder),
    }


def draw_map(encoder: Path, data: DataArguments, modality: str, example: Example) -> str:
    """The map of the test items: as pictures, or as points with the names of some."""
    model, processor = load_encoder(encoder)
    test = labelled_splits(data, modality)["test"]
    test = test.select(range(min(NUM_MAPPED, len(test))))
    loader = feature_loader(test, LabelledCollator(modality=modality, processor=processor))
    features, _ = extract_features(model, loader, description="map")
    return figures.embedding_map(
        next(iter(features.values())).numpy(),
        [test.features["label"].int2str(label) for label in test["label"]],
        thumbnails=[decode_image(image) for image in test["image"]] if modality == "vision" else None,
        names=None if example.named_by is None else list(test[example.named_by]),
    )

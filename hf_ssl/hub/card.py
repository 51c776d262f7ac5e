"""The model card of a pretraining run, made of what the run left behind and of nothing else."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

import hf_ssl
from hf_ssl.data.arguments import DATA_ARGUMENTS
from hf_ssl.errors import InputError
from hf_ssl.hub.environment import read_environment, save_environment
from hf_ssl.hub.loading import code_files, loading_lines, read_json
from hf_ssl.hub.results import PRETRAINED, Result, read_results, results_table
from hf_ssl.hub.sources import describe_data, is_hub_name, licence_of
from hf_ssl.modeling import DISTILLATION, Objective, distillation_of, objective

TEMPLATE = Path(__file__).with_name("card_template.md")
OBJECTIVE_CARDS = Path(hf_ssl.__file__).parent / "model_cards"

PIPELINE_TAGS = {"vision": "image-feature-extraction", "speech": "feature-extraction", "text": "feature-extraction"}
SHOWN_SIZES = ("hidden_size", "hidden_sizes", "num_hidden_layers", "depths", "num_attention_heads", "vocab_size")


def write_card(run_dir: Path, command: str | None = None) -> Path:
    """Write the card of a pretraining run to its README.md.

    Args:
        run_dir (`Path`): the output folder of `hf-ssl pretrain`: run.yaml, encoder/, and metrics.json where there is
            one.
        command (`str`, *optional*): the command line that has just made the run; it is kept with the versions of this
            process in environment.json. Without it the card says what is kept there.

    Returns:
        `Path`: the card.

    Raises:
        InputError: for a folder without run.yaml or encoder.
    """
    if command is not None:
        save_environment(run_dir, command)
    path = run_dir / "README.md"
    make_card(run_dir).save(path)
    return path


def make_card(run_dir: Path) -> ModelCard:
    """The card of a pretraining run; see [`write_card`]."""
    for needed in (run_dir / "run.yaml", run_dir / "encoder" / "config.json"):
        if not needed.is_file():
            raise InputError(
                f"{needed} is missing, so no card can be written; give the output folder of a finished run."
            )
    run = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8"))
    row = row_of(run)
    encoder, results = describe_encoder(run_dir / "encoder"), read_results(run_dir)
    return ModelCard.from_template(
        card_metadata(row, run, encoder, results),
        template_path=str(TEMPLATE),
        title=f"{encoder['architecture']} pretrained with {row.title}",
        modality=row.modality,
        objective=row.title,
        paper=row.paper,
        loading_lines=loading_lines(run_dir / "encoder", "encoder"),
        code_files=sorted(code_files(run_dir / "encoder")),
        model_module=f"hf_ssl.modeling.{row.module}",
        model_class=row.model,
        pieces=read_objective_card(row),
        encoder=encoder,
        start=shown_name(_start(run)),
        is_distilled=row.title == DISTILLATION.title,
        data=describe_data(run["data"]),
        environment=read_environment(run_dir),
        online_probe=read_json(run_dir / "metrics.json").get("online_probe"),
        results=results,
        results_table=results_table(results),
    )


def card_metadata(
    row: Objective, run: dict[str, Any], encoder: dict[str, Any], results: list[Result]
) -> ModelCardData:
    """The YAML block of the card; a model-index only where something was measured."""
    measured = [as_eval_result(result) for result in results if result.features == PRETRAINED]
    dataset, base_model = run["data"]["path"], _start(run)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINE_TAGS[row.modality],
        tags=["hf_ssl", "self-supervised-learning", run["objective"], row.modality],
        datasets=[dataset] if is_hub_name(dataset) else None,
        license=licence_of(dataset),
        base_model=base_model if base_model is not None and is_hub_name(base_model) else None,
        model_name=f"{encoder['architecture']} pretrained with {row.title}" if measured else None,
        eval_results=measured or None,
    )


def _start(run: dict[str, Any]) -> str | None:
    """The encoder or checkpoint that the run started from."""
    model = run["model"]
    return model.get("from_encoder") or model.get("from_pretraining") or model.get("teacher")


def row_of(run: dict[str, Any]) -> Objective:
    """What a run trained; of a distillation, the kind of its data tells the modality.

    A run of an earlier version may lack settings that there are today.
    """
    if run["objective"] != DISTILLATION.title:
        return objective(run["objective"])
    sections = {modality: {field.name for field in fields(section)} for modality, section in DATA_ARGUMENTS.items()}
    return distillation_of(next(modality for modality, names in sections.items() if names >= set(run["data"])))


def shown_name(address: str | None) -> str | None:
    """A name on the Hub whole; of a local folder the last part only."""
    return address if address is None or is_hub_name(address) else Path(address).resolve().name


def as_eval_result(result: Result) -> EvalResult:
    """A result as the Hub's model-index has it."""
    return EvalResult(
        task_type=result.task,
        task_name=result.evaluation,
        dataset_type=result.dataset,
        dataset_name=result.dataset,
        dataset_split=result.split,
        metric_type=result.metric,
        metric_value=result.mean,
    )


def describe_encoder(folder: Path) -> dict[str, Any]:
    """Architecture and size of a plain checkpoint, read from its config and the headers of its weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = {"architecture": config["architectures"][0], "parameters and buffers": f"{count_values(folder):,}"}
    sizes = {name.replace("_", " "): config[name] for name in SHOWN_SIZES if name in config}
    return facts | sizes | {"weights": config["dtype"]}


def count_values(folder: Path) -> int:
    """The number of values in a folder's safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def read_objective_card(row: Objective) -> dict[str, str]:
    """The sections of an objective's card by their lower-case headings; `citation` is the BibTeX of `paper`."""
    text = (OBJECTIVE_CARDS / row.card).read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    pieces = {title.strip().lower(): body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    paper, fence, bibtex = pieces["paper"].partition("```bibtex")
    return pieces | {"paper": paper.strip(), "citation": fence + bibtex}


def name_repository(card: str, repo_id: str) -> str:
    """The card as it stands in a repository: what it loads from its own folder is loaded from there."""
    card = card.replace('from_pretrained("encoder"', f'from_pretrained("{repo_id}"')
    return card.replace('from_pretrained("pretraining")', f'from_pretrained("{repo_id}", subfolder="pretraining")')

"""The model card of a fine-tuned model or adapter, made of the files beside it."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from hf_ssl.hub.contents import Contents
from hf_ssl.hub.environment import read_environment
from hf_ssl.hub.exit_section import exit_section
from hf_ssl.hub.loading import TASK, finetuned_loading_lines, read_json
from hf_ssl.hub.sources import describe_data, is_hub_name, licence_of

SPLITS = ("validation", "test")
SIZES = {
    "variant": "variant",
    "r": "rank",
    "lora_alpha": "alpha",
    "num_tokens": "tokens",
    "bottleneck_size": "bottleneck",
    "reduction_factor": "reduction factor",
}
"""Fields of the configs of adapters that say how large they are, and what a card calls them."""
FLAGS = {"use_dora": "DoRA", "use_rslora": "rank-stabilised", "deep": "deep"}
TEMPLATE = Path(__file__).with_name("finetuned_card_template.md")


def make_finetuned_card(sent: Contents, repo_id: str, adapter: dict[str, Any] | None) -> ModelCard:
    """The card of what `hf-ssl finetune` left, or of a PEFT adapter.

    Args:
        sent ([`Contents`]): the files.
        repo_id (`str`): where they go.
        adapter (`dict[str, Any]`, *optional*): the adapter's config as it is sent; `None` for a whole model.
    """
    metrics = read_json(sent.folder / "metrics.json")
    config = read_json(sent.folder / "config.json")
    data = yaml.safe_load((sent.folder / "run.yaml").read_text("utf-8"))["data"] if "run.yaml" in sent.files else None
    task = config.get(TASK)
    base_model = None if adapter is None else adapter["base_model_name_or_path"]
    metadata = ModelCardData(
        library_name="transformers" if adapter is None else "peft",
        pipeline_tag="automatic-speech-recognition" if task == "ctc" else task,
        tags=["hf_ssl"],
        base_model=base_model,
        datasets=[data["path"]] if data and is_hub_name(data["path"]) else None,
        license=licence_of(data["path"]) if data else None,
    )
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=repo_id.split("/")[1],
        adapter=adapter,
        method=None if adapter is None else describe_method(adapter),
        task=task,
        architecture=(config.get("architectures") or ["model"])[0],
        labels=list(config.get("id2label", {}).values()),
        loading_lines=finetuned_loading_lines(sent.folder, repo_id, adapter),
        data=describe_data(data) if data else None,
        trained=trained_share(metrics),
        labelled=labelled_items(metrics),
        environment=read_environment(sent.folder),
        scores=[(split, *score) for split in SPLITS for score in metrics.get(split, {}).items()],
        exits=exit_section(metrics, sent.folder),
    )


def describe_method(adapter: dict[str, Any]) -> str:
    """The method of an adapter and its size, as far as its config has one of the usual names.

    Args:
        adapter (`dict[str, Any]`): the adapter's config.
    """
    facts = [f"{title} {adapter[field]}" for field, title in SIZES.items() if adapter.get(field) is not None]
    flags = [flag for field, flag in FLAGS.items() if adapter.get(field)]
    return ", ".join([adapter["peft_type"], *flags, *facts])


def labelled_items(metrics: dict[str, Any]) -> str | None:
    """A sentence on the items that it learned from; `None` where their number was not recorded."""
    if "num_train_items" not in metrics:
        return None
    share, seed = metrics.get("train_fraction"), metrics.get("train_fraction_seed")
    of = "" if share is None else f", {100 * share:.4g} % of each class (seed {seed})"
    return f"It was trained on {metrics['num_train_items']:,} labelled items{of}."


def trained_share(metrics: dict[str, Any]) -> str | None:
    """A sentence on how much of the model was trained; `None` where it was not recorded."""
    if "num_parameters" not in metrics:
        return None
    trained, all_of_them = metrics["num_trained_parameters"], metrics["num_parameters"]
    size = f" The weights here take {metrics['size_on_disk'] / 1e6:,.2f} MB." if "size_on_disk" in metrics else ""
    return f"{trained:,} of {all_of_them:,} parameters ({trained / all_of_them:.2%}) were trained.{size}"

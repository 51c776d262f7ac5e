"""Tiny encoders and adapters in folders, as fine-tuning leaves them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.tuners.lora_targets import lora_targets
from tests.families import classifier


def save_encoder(folder: Path, family: str) -> dict[str, Tensor]:
    """A bare encoder without a pooler, as pretraining saves it; and inputs of three rows, padded where that can be."""
    model, inputs = classifier(family, padded=True)
    state = {name: weight for name, weight in model.base_model.state_dict().items() if "pooler." not in name}
    model.base_model.save_pretrained(folder, state_dict=state)
    return {name: torch.cat([values, values[:1].flip(-1)]) for name, values in inputs.items()}


def task_model(encoder: Path, family: str, label_names: list[str]) -> PreTrainedModel:
    """A classifier on the encoder, with a head of its own, in evaluation mode."""
    labels = dict(enumerate(label_names))
    config = AutoConfig.from_pretrained(encoder, id2label=labels, label2id={name: i for i, name in labels.items()})
    model_class = type(classifier(family)[0])
    torch.manual_seed(sum(map(ord, "".join(label_names))))
    with no_load_report():
        model = model_class.from_pretrained(encoder, config=config).eval()
    model.config.architectures = [model_class.__name__]
    return model


def save_adapter(
    folder: Path, encoder: Path, family: str, num_labels: int, layers: list[str] | None = None, **lora: Any
) -> PeftModel:
    """A LoRA adapter that is not at its start, with its whole head and the pooler; PEFT's model of it."""
    model = task_model(encoder, family, [f"{folder.name} {index}" for index in range(num_labels)])
    fields = {"r": 2, "lora_alpha": 6, "init_lora_weights": False, "modules_to_save": head_of(model), **lora}
    return save_tuned(folder, model, encoder, LoraConfig(target_modules=lora_targets(model, layers), **fields))


def save_tuned(folder: Path, model: PreTrainedModel, encoder: Path, config: Any) -> PeftModel:
    """The same with any config of PEFT."""
    config.base_model_name_or_path = str(encoder)
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return adapted


def head_of(model: PreTrainedModel) -> list[str]:
    """The modules outside the encoder, and its pooler."""
    inside = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters() if not name.startswith(inside) or ".pooler." in name]
    return sorted({name.rpartition(".")[0] for name in names})

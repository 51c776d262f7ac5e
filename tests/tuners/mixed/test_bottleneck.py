"""Bottleneck adapters mixed with each other and with LoRA."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck import BottleneckConfig
from hf_ssl.tuners.lora_targets import lora_targets
from hf_ssl.tuners.mixed import MixedAdapters
from tests.tuners.mixed.stored import head_of, save_encoder, save_tuned, task_model

FAMILIES = {
    # layers in which LoRA stands too; in most of them, beneath a bottleneck
    "albert": ["query", "ffn_output"],
    "bert": ["query", "dense"],
    "distilbert": ["out_lin", "lin2"],
    "modernbert": ["Wo", "Wi"],
    "roberta": ["dense"],
    "dinov2": ["fc1", "fc2"],
    "swin": ["o_proj", "fc2"],
    "vit": ["o_proj", "fc1", "fc2"],
    "hubert": ["out_proj", "output_dense"],
    "wav2vec2": ["intermediate_dense", "output_dense"],
    "wavlm": ["intermediate_dense"],
}
TUNERS = {
    "houlsby": {"bottleneck_size": 3},
    "norms": {"variant": "houlsby", "bottleneck_size": 5, "train_layer_norms": True, "activation": "relu"},
    "pfeiffer": {"variant": "pfeiffer", "reduction_factor": 4.0},
    "parallel": {"variant": "parallel", "scaling": 2.5},
}


def save(folder: Path, encoder: Path, family: str, num_labels: int, **fields) -> PeftModel:
    """An adapter that is far from its start."""
    model = task_model(encoder, family, [f"{folder.name} {index}" for index in range(num_labels)])
    layers = fields.pop("layers", None)
    if layers is None:
        config = BottleneckConfig(modules_to_save=head_of(model), **fields)
    else:
        targets = lora_targets(model, layers)
        config = LoraConfig(target_modules=targets, modules_to_save=head_of(model), init_lora_weights=False)
    adapted = save_tuned(folder, model, encoder, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "bottleneck_adapter" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted


SLOW = {"albert", "roberta", "dinov2", "hubert"}


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.slow] * (family in SLOW)) for family in FAMILIES]
)
@torch.no_grad()
def test_rows_equal_those_computed_alone(family, tmp_path):
    encoder, inputs = tmp_path / "encoder", save_encoder(tmp_path / "encoder", family)
    models = {
        name: save(tmp_path / name, encoder, family, 2 + size, **dict(fields))
        for size, (name, fields) in enumerate(TUNERS.items())
    }
    models["lora"] = save(tmp_path / "lora", encoder, family, 2, layers=FAMILIES[family])
    mixed = MixedAdapters.load({name: tmp_path / name for name in models})
    bare = AutoModel.from_pretrained(encoder).eval()(**{name: values[:1] for name, values in inputs.items()})
    for names in ([None, "pfeiffer", "parallel"], ["lora", "houlsby", "norms"], ["houlsby"] * 3, [None] * 3):
        output = mixed(**inputs, adapters=names)
        for index, name in enumerate(names):
            row = {key: values[index : index + 1] for key, values in inputs.items()}
            if name is not None:
                expected = models[name](**row).logits[0]
                torch.testing.assert_close(output.logits[index], expected, rtol=0, atol=1e-5)
            elif index == 0:
                states = output.last_hidden_state[0]
                torch.testing.assert_close(states, bare.last_hidden_state[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_others_keep_their_bits_and_wrong_ones_are_refused(tmp_path):
    encoder, inputs = tmp_path / "encoder", save_encoder(tmp_path / "encoder", "bert")
    save(tmp_path / "houlsby", encoder, "bert", 2, bottleneck_size=3)
    save(tmp_path / "lora", encoder, "bert", 2, layers=["query", "dense"])
    names = ["lora", None, "houlsby"]
    mixed = MixedAdapters.load({name: tmp_path / name for name in ("houlsby", "lora")})
    before = mixed(**inputs, adapters=names)
    parallel = save(tmp_path / "parallel", encoder, "bert", 5, variant="parallel")
    mixed.add("parallel", tmp_path / "parallel")
    with_it = mixed(**inputs, adapters=["parallel", "lora", "houlsby"])
    expected = parallel(**{name: values[:1] for name, values in inputs.items()}).logits[0]
    torch.testing.assert_close(with_it.logits[0], expected, rtol=0, atol=1e-5)
    mixed.remove("lora")
    mixed.add("lora", tmp_path / "lora")
    after = mixed(**inputs, adapters=names)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert all(torch.equal(before.logits[row], after.logits[row]) for row in (0, 2))

    for name, change, message in (
        ("fused", {"fused_adapters": ["a", "b"]}, "'fused' is an AdapterFusion"),
        ("resized", {"bottleneck_size": 4}, r"'resized' has the shape \(3, 16\), which should be \(4, 16\)"),
    ):
        config = shutil.copytree(tmp_path / "houlsby", tmp_path / name) / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
        with pytest.raises(InputError, match=message):
            mixed.add(name, tmp_path / name)
    whole = task_model(encoder, "bert", ["a", "b"])
    layers = [*head_of(whole), "bert.encoder.layer.0.attention.self.query"]
    save_tuned(tmp_path / "whole", whole, encoder, LoraConfig(target_modules=["value"], modules_to_save=layers))
    with pytest.raises(InputError, match="one has LoRA in bert.encoder.layer.0.attention.self.query and the other"):
        mixed.add("whole", tmp_path / "whole")

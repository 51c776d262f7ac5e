"""Soft prompts as adapters of PEFT and of transformers."""

import subprocess
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hf_ssl.errors import InputError
from hf_ssl.tuners.soft_prompt import SoftPromptConfig
from tests.tuners.soft_prompt.tiny import prompts_of, tiny, with_prompts

RELOAD = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
import hf_ssl.tuners.soft_prompt

folder = sys.argv[1]
base = AutoModelForSequenceClassification.from_pretrained(f"{folder}/base")
model = PeftModel.from_pretrained(base, f"{folder}/adapter").eval()
batch = load_file(f"{folder}/batch.safetensors")
logits = batch.pop("logits")
assert torch.equal(model(**batch).logits, logits), model(**batch).logits - logits
"""


def saved(folder, name="bert", **fields):
    """A model with a trained prompt and head, its inputs and logits, and the folders of base and adapter."""
    model, inputs = tiny(name, padded=True)
    model.save_pretrained(folder / "base")
    prompted = with_prompts(model, modules_to_save=["classifier"], **fields)
    prompted.base_model.classifier.modules_to_save["default"].weight.data.normal_()
    with torch.no_grad():
        logits = prompted(**inputs).logits
    prompted.save_pretrained(folder / "adapter")
    return prompted, inputs, logits


def test_a_fresh_process_gives_the_same_logits(tmp_path):
    _, inputs, logits = saved(tmp_path, deep=True)
    save_file(inputs | {"logits": logits}, tmp_path / "batch.safetensors")
    result = subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@pytest.mark.parametrize("name", ["albert", "bert", "vit", "wav2vec2"])
def test_the_file_holds_the_prompts_and_the_head(name, deep, tmp_path):
    _, inputs, logits = saved(tmp_path, name, deep=deep)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    sizes = [tuple(t.shape) for n, t in tensors.items() if "soft_prompt_embeddings" in n]
    calls = 2 if deep else 1
    assert sizes == ([(calls, 3, 16)] if name == "albert" else calls * [(1, 3, 16)])
    assert sum("classifier" in n for n in tensors) == 2
    assert len(tensors) == len(sizes) + 2

    base, _ = tiny(name)  # from the same seed
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter", low_cpu_mem_usage=low_cpu_mem_usage).eval()
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, logits)
        base = loaded.unload()


def test_several_adapters_beside_each_other():
    model, inputs = tiny("bert")
    prompted = with_prompts(model)
    prompted.add_adapter("deep", SoftPromptConfig(num_tokens=2, deep=True))
    for prompt in prompts_of(prompted, "deep"):
        prompt.data.normal_(std=0.5)
    with torch.no_grad():
        first = prompted(**inputs).logits
        prompted.set_adapter("deep")
        assert {n for n, p in prompted.named_parameters() if p.requires_grad} == {
            f"base_model.model.bert.encoder.layer.{i}.soft_prompt_embeddings.deep" for i in range(2)
        }
        second = prompted(**inputs).logits
        assert not torch.allclose(first, second)
        prompted.delete_adapter("deep")
        prompted.set_adapter("default")
        assert torch.equal(prompted(**inputs).logits, first)

        prompted.add_adapter("other", SoftPromptConfig(num_tokens=2))
        prompted.delete_adapter("default")
        prompted.set_adapter("other")
        other = prompted(**inputs).logits
        assert other.isfinite().all()
        prompted.add_adapter("default", SoftPromptConfig(num_tokens=4))
        assert [p.shape for p in prompts_of(prompted)] == [(1, 4, 16)]
        assert torch.equal(prompted(**inputs).logits, other)


def test_native_adapters_of_transformers(tmp_path):
    model, inputs = tiny("vit")
    with torch.no_grad():
        before = model(**inputs).logits
        model.add_adapter(SoftPromptConfig(num_tokens=3), adapter_name="mine")
        prompts_of(model, "mine")[0].normal_(std=0.5)
        logits = model(**inputs).logits
        assert not torch.allclose(logits, before)
        model.save_pretrained(tmp_path)
        model.disable_adapters()
        assert torch.equal(model(**inputs).logits, before)

        other, _ = tiny("vit")
        other.load_adapter(tmp_path, adapter_name="loaded")
        assert torch.equal(other.eval()(**inputs).logits, logits)


def test_one_config_serves_two_models():
    config = SoftPromptConfig(num_tokens=3)
    for _ in range(2):
        model, inputs = tiny("bert")
        assert get_peft_model(model, config)(**inputs).logits.isfinite().all()


def test_merging_is_refused():
    model, _ = tiny("vit")
    prompted = with_prompts(model)
    for refused in (prompted.merge_and_unload, prompted.merge_adapter, prompted.unmerge_adapter):
        with pytest.raises(InputError, match="A soft prompt cannot be merged"):
            refused()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"init": "k-means"}, "did you mean 'kmeans'"),
        ({"init": "words"}, "give words with init='words' alone"),
        ({"init_words": ["good"]}, "give words with init='words' alone"),
    ],
)
def test_a_wrong_config_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        SoftPromptConfig(**fields)


def test_a_target_that_is_no_layer_is_refused():
    model, _ = tiny("bert")
    with pytest.raises(InputError, match=r"attention\.self\.query .* is no layer of the encoder"):
        with_prompts(model, target_modules=["query"])

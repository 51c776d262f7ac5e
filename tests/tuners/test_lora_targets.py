import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    ViTConfig,
)

from hf_ssl.errors import InputError
from hf_ssl.tuners.lora_targets import lora_targets
from tests.families import BERT, IMAGES, SPEECH, TEXT, VIT, classifier


@pytest.mark.parametrize("family", sorted({**IMAGES, **SPEECH, **TEXT}))
def test_default_targets(family):
    model, inputs = classifier(family)
    with torch.no_grad():
        before = model(**inputs).logits
    head = {n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")}
    modules = sorted({name.rpartition(".")[0] for name in head})
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=lora_targets(model), modules_to_save=modules))

    with torch.no_grad():
        torch.testing.assert_close(adapted.eval()(**inputs).logits, before, rtol=0, atol=1e-6)
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    encoder = f"base_model.model.{model.base_model_prefix}."
    assert all(("lora_" in n) if n.startswith(encoder) else ("modules_to_save" in n) for n in trainable)
    assert len([n for n in trainable if "modules_to_save" in n]) == len(head)

    adapted(**inputs).logits.square().sum().backward()
    lora_b = {n: p for n, p in trainable.items() if "lora_B" in n}
    # A layer whose weight is read but which is never called (WavLM's projections) gets no gradient.
    assert lora_b
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora_b.values())


class StudentAndTeacher(PreTrainedModel):
    config_class = ViTConfig
    base_model_prefix = "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config, add_pooling_layer=False)
        self.teacher = AutoModel.from_config(config, add_pooling_layer=False)
        self.head = nn.ModuleDict({"q_proj": nn.Linear(config.hidden_size, 2)})
        self.post_init()


def test_a_teacher_and_a_head_are_left_alone():
    model = StudentAndTeacher(ViTConfig(**VIT))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=lora_targets(model)))
    names = [n for n, _ in adapted.named_parameters() if "lora_B" in n]
    assert len(names) == 4  # query and value of two layers
    assert all(n.startswith("base_model.model.encoder.layers.") for n in names)


def test_a_bare_encoder_and_named_layers():
    model = AutoModel.from_config(ViTConfig(**VIT))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=lora_targets(model, ["fc1", "o_proj"])))
    names = {n.split(".lora_B")[0].rpartition(".")[2] for n, _ in adapted.named_parameters() if "lora_B" in n}
    assert names == {"fc1", "o_proj"}


def test_a_pooler_is_left_to_the_head():
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **BERT))
    lora = LoraConfig(r=2, target_modules=lora_targets(model, ["dense"]), modules_to_save=["bert.pooler.dense"])
    names = [n for n, _ in get_peft_model(model, lora).named_parameters() if "lora_B" in n]
    assert len(names) == 6  # attention output, intermediate and output of two layers
    assert not any("pooler" in name for name in names)


def test_unknown_layer_names_the_nearest():
    model = AutoModel.from_config(ViTConfig(**VIT))
    with pytest.raises(InputError, match="'q_prj'; did you mean 'q_proj'"):
        lora_targets(model, ["q_prj"])


FURTHER = {
    "megatron-bert": (BERT, {"query", "value"}),
    "roformer": (BERT | {"embedding_size": 16}, {"query", "value"}),
    "xlm": ({"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2}, {"q_lin", "v_lin"}),
    "eurobert": (BERT | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}, {"q_proj", "v_proj"}),
}


@pytest.mark.parametrize("family", FURTHER)
def test_of_other_families_the_query_and_value_projections_are_found(family):
    fields, names = FURTHER[family]
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields)).eval()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=lora_targets(model)))
    found = {n.split(".lora_B")[0].rpartition(".")[2] for n, _ in adapted.named_parameters() if "lora_B" in n}
    assert found == names
    adapted(input_ids=torch.randint(5, 40, (2, 7))).last_hidden_state.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)


def test_family_without_a_default():
    model = AutoModel.from_config(AutoConfig.for_model("fnet", vocab_size=40, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(InputError, match=r"fnet encoder.*model\.tuner_config\.target_modules"):
        lora_targets(model)

"""The life of a prefix as an adapter of PEFT: made, trained, saved, loaded, switched, removed."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_ssl.errors import InputError
from hf_ssl.tuners.prefix import PrefixConfig, PrefixModel, drop_reparametrisation
from hf_ssl.tuners.prefix.layer import PrefixLayer
from hf_ssl.tuners.prefix.model import prefix_layers
from tests.families import BERT, IMAGES, SPEECH, classifier

P = 3
LOADING = Path(__file__).parent / "load_prefixes.py"


def learned(model, seed=1):
    """What is trainable, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


def test_peft_knows_the_method():
    assert PrefixConfig().peft_type == PeftType["ENCODER_PREFIX"]
    model, _ = classifier("bert")
    assert isinstance(get_peft_model(model, PrefixConfig()).base_model, PrefixModel)


def test_the_start():
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**BERT))
    (first, second) = prefix_layers(get_peft_model(model, PrefixConfig(num_tokens=1000)))
    for layer in (first, second):
        key_values = layer.encoder_prefix_key_values["default"]
        assert key_values.shape == (1, 2, 1000, 16)
        assert key_values.std().item() == pytest.approx(0.02, rel=0.02)
        assert key_values.mean().item() == pytest.approx(0, abs=1e-3)
    assert PrefixConfig() == PrefixConfig(num_tokens=10, reparametrisation=None, dropout=0.0)


def test_the_reparametrisation_is_one_mlp_for_all_layers():
    """P_i = W_2 tanh(W_1 E_i + b_1) + b_2 for each prefix token i, cut into the keys and values of the layers."""
    model, _ = classifier("bert")
    adapted = learned(get_peft_model(model, PrefixConfig(num_tokens=P, reparametrisation=5)))
    first, second = prefix_layers(adapted)
    parameters = {name: p.detach() for name, p in first.named_parameters() if "prefix" in name}
    embedding = parameters["encoder_prefix_embedding.default"]
    w_1, b_1 = parameters["encoder_prefix_hidden.default.weight"], parameters["encoder_prefix_hidden.default.bias"]
    outputs = [layer.encoder_prefix_output["default"] for layer in (first, second)]
    w_2, b_2 = torch.cat([output.weight for output in outputs]), torch.cat([output.bias for output in outputs])
    assert not second.encoder_prefix_embedding
    assert not second.encoder_prefix_hidden
    for token in range(P):
        made = w_2 @ torch.tanh(w_1 @ embedding[token] + b_1) + b_2
        for index, layer in enumerate((first, second)):
            keys, values = made[index * 32 : index * 32 + 16], made[index * 32 + 16 : index * 32 + 32]
            torch.testing.assert_close(layer.key_values("default")[0, 0, token], keys)
            torch.testing.assert_close(layer.key_values("default")[0, 1, token], values)


@pytest.mark.parametrize("family", ["bert", "albert", "swin"])
def test_dropping_the_reparametrisation_leaves_the_prefix_alone(family, tmp_path):
    model, inputs = classifier(family)
    config = PrefixConfig(num_tokens=P, reparametrisation=5, modules_to_save=["classifier"])
    adapted = learned(get_peft_model(model, config))
    expected = logits(adapted, inputs)
    adapted.save_pretrained(tmp_path / "training")
    drop_reparametrisation(adapted)
    assert torch.equal(logits(adapted, inputs), expected)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in trained if "prefix" in name} == {"encoder_prefix_key_values"}
    drop_reparametrisation(adapted)  # nothing left to do

    adapted.save_pretrained(tmp_path / "final")
    before = load_file(tmp_path / "training/adapter_model.safetensors")
    after = load_file(tmp_path / "final/adapter_model.safetensors")
    assert not any("key_values" in name for name in before)
    prefix = [name for name in after if "prefix" in name]
    assert len(prefix) == len(prefix_layers(adapted))
    assert all(name.endswith("encoder_prefix_key_values") for name in prefix)
    assert json.loads((tmp_path / "final/adapter_config.json").read_text())["reparametrisation"] is None
    for folder, low_cpu_mem_usage in [("training", False), ("training", True), ("final", False), ("final", True)]:
        base, _ = classifier(family)
        loaded = PeftModel.from_pretrained(base, tmp_path / folder, low_cpu_mem_usage=low_cpu_mem_usage).eval()
        torch.testing.assert_close(logits(loaded, inputs), expected, rtol=0, atol=1e-6)


def test_a_copy_of_the_model_has_its_own_reparametrisation():
    model, inputs = classifier("albert")
    adapted = learned(get_peft_model(model, PrefixConfig(num_tokens=P, reparametrisation=5)))
    expected, copied = logits(adapted, inputs), copy.deepcopy(adapted)
    learned(adapted, seed=2)
    assert not torch.equal(logits(adapted, inputs), expected)
    assert torch.equal(logits(copied, inputs), expected)


def test_what_was_saved_is_the_same_in_another_process(tmp_path):
    cases = []
    for family, options, native in [
        ("bert", {}, False),
        ("bert", {"reparametrisation": 5}, True),
        ("albert", {}, True),
        ("vit", {"reparametrisation": 5}, False),
        ("wavlm", {}, False),
    ]:
        folder = tmp_path / f"{family}-{native}"
        model, inputs = classifier(family)
        model.save_pretrained(folder / "base")
        head = [name for name, _ in model.named_children() if name in ("classifier", "projector")]
        config = PrefixConfig(num_tokens=P, modules_to_save=head, **options)
        if native:
            model.add_adapter(config)
            learned(model)
        else:
            model = learned(get_peft_model(model, config))
        model.save_pretrained(folder / "adapter")
        save_file(inputs | {"expected": logits(model, inputs)}, folder / "inputs.safetensors")
        kind = "Image" if family in IMAGES else "Audio" if family in SPEECH else "Sequence"
        cases.append(
            {
                "auto_model": f"AutoModelFor{kind}Classification",
                "base": str(folder / "base"),
                "adapter": str(folder / "adapter"),
                "native": native,
                "inputs": str(folder / "inputs.safetensors"),
            }
        )
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, str(LOADING), str(tmp_path / "cases.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == len(cases)


@pytest.mark.parametrize("family", ["bert", "albert", "wavlm"])
def test_several_prefixes(family):
    model, inputs = classifier(family)
    before = logits(model.requires_grad_(False), inputs)
    adapted = learned(get_peft_model(model, PrefixConfig(num_tokens=P), adapter_name="one"))
    one = logits(adapted, inputs)
    adapted.add_adapter("two", PrefixConfig(num_tokens=P + 2, reparametrisation=5))
    assert torch.equal(logits(adapted, inputs), one)
    adapted.set_adapter("two")
    two = logits(learned(adapted, seed=2), inputs)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".two" in name for name in trained)
    adapted.set_adapter("one")
    assert torch.equal(logits(adapted, inputs), one)
    adapted.base_model.set_adapter(["one", "two"])
    both = logits(adapted, inputs)
    assert not torch.allclose(both, one, atol=1e-7)
    assert not torch.allclose(both, two, atol=1e-7)

    adapted.delete_adapter("one")
    assert adapted.active_adapters == ["two"]
    assert not any(".one" in name for name, _ in adapted.named_parameters())
    assert torch.equal(logits(adapted, inputs), two)
    adapted.delete_adapter("two")
    assert torch.equal(logits(model, inputs), before)


def test_two_active_prefixes_are_one_long_one():
    model, inputs = classifier("bert")
    adapted = learned(get_peft_model(model, PrefixConfig(num_tokens=P), adapter_name="one"))
    for name, num_tokens in [("two", 2), ("both", P + 2)]:
        adapted.add_adapter(name, PrefixConfig(num_tokens=num_tokens))
        adapted.set_adapter(name)
        learned(adapted, seed=2)
    with torch.no_grad():
        for layer in prefix_layers(adapted):
            prefixes = layer.encoder_prefix_key_values
            prefixes["both"].copy_(torch.cat([prefixes["one"], prefixes["two"]], dim=2))
    expected = logits(adapted, inputs)
    adapted.base_model.set_adapter(["one", "two"])
    torch.testing.assert_close(logits(adapted, inputs), expected, rtol=0, atol=1e-7)


def test_the_methods_of_a_transformers_model(tmp_path):
    model, inputs = classifier("bert")
    before = logits(model.requires_grad_(False), inputs)
    model.add_adapter(PrefixConfig(num_tokens=P), "one")
    one = logits(learned(model), inputs)
    assert not torch.equal(one, before)
    model.disable_adapters()
    assert torch.equal(logits(model, inputs), before)
    model.enable_adapters()
    assert torch.equal(logits(model, inputs), one)
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "two")
    model.add_adapter(PrefixConfig(num_tokens=P), "three")
    model.set_adapter("two")
    assert torch.equal(logits(model, inputs), one)
    model.delete_adapter("two")
    assert torch.equal(logits(model, inputs), one)  # the first of those that are left


@pytest.mark.parametrize("options", [{}, {"reparametrisation": 16}], ids=["direct", "reparametrised"])
@pytest.mark.parametrize(("head", "reached"), [(["classifier"], 0.01), (None, 0.4)], ids=["with head", "alone"])
def test_a_tiny_batch_is_overfitted(options, head, reached):
    """With weights of some size: of the usual 0.02, a tiny encoder's attention moves next to nothing."""
    _, inputs = classifier("bert")
    model = BertForSequenceClassification(BertConfig(**BERT, num_labels=3, initializer_range=0.3)).eval()
    adapted = get_peft_model(model, PrefixConfig(num_tokens=P, modules_to_save=head, **options))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(60):
        losses.append(adapted(**inputs, labels=torch.tensor([0, 2])).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.8
    assert losses[-1] < reached


def rows():
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(5, 40, (6,), generator=generator), "labels": i % 3} for i in range(16)]


def train(folder, resume=None):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**BERT, num_labels=3))
    config = PrefixConfig(num_tokens=P, reparametrisation=5, dropout=0.1, modules_to_save=["classifier"])
    arguments = TrainingArguments(
        folder,
        max_steps=6,
        save_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(get_peft_model(model, config), arguments, train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume)
    return {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_training_resumes_exactly_with_the_reparametrisation(tmp_path):
    whole = train(tmp_path)
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-3"))
    start = load_file(tmp_path / "checkpoint-3/adapter_model.safetensors")
    assert any("encoder_prefix_hidden" in name for name in start)
    assert whole.keys() == resumed.keys()
    for name, parameter in whole.items():
        assert torch.equal(resumed[name], parameter), name


def test_dropout_is_of_the_prefix_and_in_training_alone():
    model, inputs = classifier("vit")
    adapted = learned(get_peft_model(model, PrefixConfig(num_tokens=P, dropout=0.5)))
    assert torch.equal(logits(adapted, inputs), logits(adapted, inputs))
    dropouts = [module for module in adapted.modules() if isinstance(module, nn.Dropout)]
    for dropout in dropouts:
        dropout.train()
    assert not torch.equal(logits(adapted, inputs), logits(adapted, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2"])
def test_it_compiles_in_one_graph(family):
    model, inputs = classifier(family)
    adapted = learned(get_peft_model(model, PrefixConfig(num_tokens=P)))
    compiled = torch.compile(adapted, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(logits(compiled, inputs), logits(adapted, inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter", "unmerge_adapter"])
def test_a_prefix_is_not_merged(merge):
    model, _ = classifier("bert")
    adapted = get_peft_model(model, PrefixConfig())
    with pytest.raises(InputError, match="A prefix cannot be merged"):
        getattr(adapted, merge)()
    assert len(prefix_layers(adapted)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"reparametrisation": 0}, "reparametrisation is 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        PrefixConfig(**options)


def test_a_target_that_is_no_attention():
    model, _ = classifier("bert")
    with pytest.raises(
        InputError, match=r"bert\.encoder\.layer\.0\.attention\.self\.query \(Linear\) is no attention"
    ):
        get_peft_model(model, PrefixConfig(target_modules=["query"]))


def test_some_layers():
    model, inputs = classifier("vit")
    adapted = get_peft_model(model, PrefixConfig(target_modules=["layers.1.attention"]))
    assert [isinstance(layer.attention, PrefixLayer) for layer in model.vit.layers] == [False, True]
    assert logits(adapted, inputs).shape == (2, 3)


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_an_attention_function_that_takes_no_prefix(implementation):
    model, inputs = classifier("bert")
    model.config._attn_implementation_internal = implementation  # without the library that it needs
    with pytest.raises(InputError, match=f"cannot be joined to {implementation} attention"):
        get_peft_model(model, PrefixConfig())

    model, inputs = classifier("bert")
    adapted = get_peft_model(model, PrefixConfig()).eval()
    expected = logits(adapted, inputs)
    model.config._attn_implementation_internal = implementation
    attention = prefix_layers(adapted)[0].base_layer
    with pytest.raises(InputError, match=f"cannot be joined to {implementation} attention"):
        prefix_layers(adapted)[0](torch.randn(2, 7, 16))
    assert attention.config is model.config
    model.config._attn_implementation_internal = "sdpa"
    assert torch.equal(logits(adapted, inputs), expected)


class Silent(nn.Module):
    """Names the interface, but runs without it."""

    def __init__(self, config):
        super().__init__()
        self.config, self.k_proj = config, nn.Linear(4, 4)

    def forward(self, hidden_states):
        return ALL_ATTENTION_FUNCTIONS if hidden_states is None else self.k_proj(hidden_states)  # noqa: F821


def test_an_attention_that_runs_without_its_prefix_is_noticed():
    layer = PrefixLayer(Silent(BertConfig()))
    layer.update_layer("default", PrefixConfig(), layer)
    layer.set_adapter("default")
    with pytest.raises(InputError, match="Silent ran without its prefix"):
        layer(torch.randn(1, 2, 4))

"""Rows that name different adapters against each row by itself in the plain model."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from hf_ssl.errors import InputError
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.tuners.lora_targets import lora_targets
from hf_ssl.tuners.mixed import MixedAdapters
from tests.families import BERT
from tests.tuners.mixed.stored import save_adapter, save_encoder, save_tuned, task_model

FAMILIES = {
    "albert": ["query", "ffn"],
    "bert": ["query", "key", "dense"],
    "deberta-v2": ["value_proj"],
    "distilbert": ["lin1", "lin2"],
    "modernbert": ["Wo"],
    "roberta": ["key"],
    "convnextv2": ["pwconv2"],
    "dinov2": ["fc1"],
    "swin": ["k_proj", "fc1"],
    "vit": ["fc1", "fc2"],
    "audio-spectrogram-transformer": ["v_proj"],
    "hubert": ["intermediate_dense"],
    "wav2vec2": ["k_proj", "output_dense"],
    "wavlm": ["output_dense"],
}
"""With layers that one of the adapters has LoRA in, beside those of the family's default."""
SLOW = {"albert", "audio-spectrogram-transformer", "convnextv2", "modernbert"}


class Alone:
    """The adapters as PEFT's own models, each of which is given one row."""

    def __init__(self, folder: Path, family: str) -> None:
        self.encoder, self.inputs = folder / "encoder", save_encoder(folder / "encoder", family)
        # the regular expression ends in the names of the layers
        queries = re.findall(r"\w+", lora_targets(AutoModel.from_pretrained(self.encoder)).rpartition("(")[2])[:1]
        self.models = {
            "spam": save_adapter(folder / "spam", self.encoder, family, 2),
            "topic": save_adapter(folder / "topic", self.encoder, family, 5, r=4, lora_alpha=3, use_rslora=True),
            "tone": save_adapter(
                folder / "tone",
                self.encoder,
                family,
                3,
                [*queries, *FAMILIES[family]],
                rank_pattern={queries[0]: 3},
                alpha_pattern={FAMILIES[family][0]: 7},
            ),
        }
        self.folders = {name: folder / name for name in self.models}

    def row(self, index: int) -> dict[str, Tensor]:
        return {name: values[index : index + 1] for name, values in self.inputs.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Alone:
    return Alone(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def mixed(alone) -> MixedAdapters:
    return MixedAdapters.load(alone.folders)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.slow] * (family in SLOW)) for family in FAMILIES]
)
@torch.no_grad()
def test_rows_equal_those_computed_alone(family, tmp_path):
    alone = Alone(tmp_path, family)
    mixed, bare = MixedAdapters.load(alone.folders), AutoModel.from_pretrained(alone.encoder).eval()
    for names in (["spam", None, "tone"], ["tone", "topic", "spam"], ["topic"] * 3, [None] * 3):
        output = mixed(**alone.inputs, adapters=names)
        for index, name in enumerate(names):
            logits, states = output.logits[index], output.last_hidden_state[index]
            if name is None:
                assert logits is None
                assert output.labels[index] is None
                expected = bare(**alone.row(index)).last_hidden_state[0]
                torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
            else:
                expected = alone.models[name](**alone.row(index)).logits[0]
                torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
                assert output.label_names[index] == tuple(f"{name} {i}" for i in range(len(expected)))
                assert output.labels[index] == f"{name} {expected.argmax()}"


@torch.no_grad()
def test_a_padded_row_equals_the_row_without_padding(alone, mixed):
    row = {name: values[1:2, :4] for name, values in alone.inputs.items()}
    assert not alone.inputs["attention_mask"][1, 4:].any()
    output = mixed(**alone.inputs, adapters=["tone", "topic", None])
    torch.testing.assert_close(output.logits[1], alone.models["topic"](**row).logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_tokens(alone, tmp_path):
    """The logits of each token; the head has no pooler."""
    models = {}
    for name, size in (("names", 3), ("verbs", 2)):
        labels = {index: f"{name} {index}" for index in range(size)}
        config = AutoConfig.from_pretrained(alone.encoder, id2label=labels)
        model = AutoModelForTokenClassification.from_pretrained(alone.encoder, config=config).eval()
        model.config.architectures = ["BertForTokenClassification"]
        lora = LoraConfig(target_modules=["query"], modules_to_save=["classifier"], init_lora_weights=False)
        models[name] = save_tuned(tmp_path / name, model, alone.encoder, lora)
    mixed = MixedAdapters.load({name: tmp_path / name for name in models})
    output = mixed(**alone.inputs, adapters=["verbs", "names", None])
    for index, name in enumerate(("verbs", "names")):
        expected = models[name](**alone.row(index)).logits[0]
        torch.testing.assert_close(output.logits[index], expected, rtol=0, atol=1e-5)
        assert output.labels[index] == [f"{name} {label}" for label in expected.argmax(dim=-1)]
    with pytest.raises(InputError, match="one is of a BertForTokenClassification, the other of a BertForSequence"):
        MixedAdapters.load({"names": tmp_path / "names", "spam": alone.folders["spam"]})


@torch.no_grad()
def test_others_keep_their_bits_when_adapters_come_and_go(alone, tmp_path):
    """The one that comes has more classes, larger ranks and LoRA in layers where the others have none."""
    mixed = MixedAdapters.load(alone.folders, ["spam", "topic"])
    names = ["topic", None, "spam"]
    before = mixed(**alone.inputs, adapters=names)

    def unchanged() -> bool:
        now = mixed(**alone.inputs, adapters=names)
        same = [a is b is None or torch.equal(a, b) for a, b in zip(now.logits, before.logits, strict=True)]
        return all(same) and torch.equal(now.last_hidden_state, before.last_hidden_state)

    assert unchanged()
    layers = ["query", "key", "value", "dense"]
    large = save_adapter(tmp_path / "large", alone.encoder, "bert", 9, layers, r=8)
    mixed.add("large", tmp_path / "large")
    assert mixed.names == ("spam", "topic", "large")
    assert unchanged()
    output = mixed(**alone.inputs, adapters=["large", "large", "spam"])
    torch.testing.assert_close(output.logits[0], large(**alone.row(0)).logits[0], rtol=0, atol=1e-5)

    shutil.rmtree(tmp_path / "large")
    changed = save_adapter(tmp_path / "large", alone.encoder, "bert", 7, r=3)
    mixed.reload("large")
    assert unchanged()
    output = mixed(**alone.inputs, adapters=["large", "large", "spam"])
    torch.testing.assert_close(output.logits[1], changed(**alone.row(1)).logits[0], rtol=0, atol=1e-5)

    mixed.remove("large")
    assert unchanged()
    mixed.remove("spam")
    assert mixed.names == ("topic",)
    torch.testing.assert_close(
        mixed(**alone.inputs, adapters=["topic"] * 3).logits[0], before.logits[0], rtol=0, atol=1e-5
    )
    with pytest.raises(InputError, match="'spam'"):
        mixed(**alone.inputs, adapters=names)


@torch.no_grad()
def test_a_failed_load_changes_nothing(alone, mixed, tmp_path):
    names = ["tone", None, "spam"]
    before = mixed(**alone.inputs, adapters=names)
    save_adapter(tmp_path / "dora", alone.encoder, "bert", 2, ["query", "key"], use_dora=True)
    with pytest.raises(InputError, match="'dora' has use_dora=True, and only plain LoRA"):
        mixed.add("dora", tmp_path / "dora")
    with pytest.raises(InputError, match="There is an adapter 'spam' already"):
        mixed.add("spam", alone.folders["spam"])
    broken = Path(shutil.copytree(alone.folders["spam"], tmp_path / "broken"))
    mixed.add("broken", broken)
    (broken / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="adapter_model.safetensors of the adapter .*broken cannot be read"):
        mixed.reload("broken")
    assert mixed.names == ("spam", "topic", "tone", "broken")
    after = mixed(**alone.inputs, adapters=names)
    assert torch.equal(before.logits[0], after.logits[0])
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)


def test_wrong_calls(alone, mixed):
    with pytest.raises(InputError, match="'spma'; did you mean 'spam'"):
        mixed(**alone.inputs, adapters=["spma", None, None])
    with pytest.raises(InputError, match="2 adapters are named for a batch of 3 rows"):
        mixed(**alone.inputs, adapters=["spam", None])
    with pytest.raises(InputError, match="is given nothing to compute; give it input_ids"):
        mixed(adapters=[])
    with pytest.raises(InputError, match="take no labels"):
        mixed(**alone.inputs, adapters=[None] * 3, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="Mixed adapters are not trained"):
        mixed.train()
    assert not mixed.eval().model.training
    assert not any(parameter.requires_grad for parameter in mixed.parameters())
    with pytest.raises(InputError, match="There is no adapter 'topics'; did you mean 'topic'"):
        MixedAdapters.load(alone.folders, ["spam", "topics"])
    with pytest.raises(InputError, match="There is no adapter to load"):
        MixedAdapters.load({})


@torch.no_grad()
def test_threads(alone, mixed):
    """Each has its own rows."""
    batches = [["spam", "topic", None], ["tone"] * 3, [None] * 3, ["topic", "spam", "tone"]] * 8
    expected = [mixed(**alone.inputs, adapters=names).last_hidden_state for names in batches]
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda names: mixed(**alone.inputs, adapters=names).last_hidden_state, batches))
    assert all(torch.equal(one, other) for one, other in zip(states, expected, strict=True))


@torch.no_grad()
def test_an_encoder_whose_layers_compute_relative_positions_too(tmp_path):
    """DeBERTa-v3 hands positions to its query and key, which are no rows of the batch."""
    positions = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}
    config = AutoConfig.for_model("deberta-v2", **BERT, **positions)
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    models = {
        name: save_adapter(tmp_path / name, tmp_path / "encoder", "deberta-v2", 2, layers)
        for name, layers in (("queries", ["query_proj"]), ("values", ["value_proj"]))
    }
    mixed = MixedAdapters.load({name: tmp_path / name for name in models})
    inputs = {"input_ids": torch.randint(5, 40, (2, 7))}
    for names in (["queries"] * 2, ["values", None]):
        expected = models[names[0]](**inputs).logits[0]
        torch.testing.assert_close(mixed(**inputs, adapters=names).logits[0], expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="batches whose rows all name the same adapter"):
        mixed(**inputs, adapters=["queries", "values"])


@torch.no_grad()
def test_another_precision(alone, mixed):
    names = ["tone", None, "topic"]
    expected = mixed(**alone.inputs, adapters=names).logits[0]
    mixed.remove("topic")
    mixed.to(torch.bfloat16)
    mixed.add("topic", alone.folders["topic"])
    logits = mixed(**alone.inputs, adapters=names).logits[0]
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


def test_an_encoder_that_was_moved(alone, tmp_path):
    encoder = Path(shutil.copytree(alone.encoder, tmp_path / "encoder"))
    save_adapter(tmp_path / "spam", encoder, "bert", 2)
    encoder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="which cannot be loaded .*say where it is now with encoder="):
        MixedAdapters.load({"spam": tmp_path / "spam"})
    assert MixedAdapters.load({"spam": tmp_path / "spam"}, encoder=tmp_path / "moved").names == ("spam",)


def test_adapters_that_cannot_share_a_model(alone, tmp_path):
    other = tmp_path / "other"
    save_encoder(other, "bert")
    save_adapter(tmp_path / "far", other, "bert", 2)
    with pytest.raises(
        InputError, match="'spam' and 'far' cannot be mixed: their encoders, .*other, are not the same"
    ):
        MixedAdapters.load({"spam": alone.folders["spam"], "far": tmp_path / "far"})
    near = Path(shutil.copytree(alone.folders["topic"], tmp_path / "near"))
    rewrite(near / "config.json", hidden_act="relu", hidden_dropout_prob=0.5)
    with pytest.raises(InputError, match="'spam' and 'near' cannot be mixed: they differ in hidden_act"):
        MixedAdapters.load({"spam": alone.folders["spam"], "near": near})


def test_adapters_that_cannot_be_mixed(alone, tmp_path):
    def refused(name: str) -> str:
        with pytest.raises(InputError) as caught:
            MixedAdapters.load({name: tmp_path / name})
        assert f"{name!r}" in str(caught.value)
        return str(caught.value)

    save_encoder(tmp_path / "resnet", "resnet")
    save_adapter(tmp_path / "convolutions", tmp_path / "resnet", "resnet", 2)
    assert "Conv2d" in refused("convolutions")
    save_adapter(tmp_path / "pissa", alone.encoder, "bert", 2, init_lora_weights="pissa")
    assert "init_lora_weights='pissa'" in refused("pissa")
    save_adapter(tmp_path / "biases", alone.encoder, "bert", 2, bias="all")
    assert "bias='all'" in refused("biases")
    save_adapter(tmp_path / "headless", alone.encoder, "bert", 2, modules_to_save=["classifier"])
    assert "does not hold bert.pooler.dense.bias, which its encoder lacks too" in refused("headless")
    for kind, config in (
        ("IA3", IA3Config(target_modules=["key"], feedforward_modules=[], modules_to_save=["classifier"])),
        ("ADALORA", AdaLoraConfig(target_modules=["key"], total_step=9, modules_to_save=["classifier"])),
    ):
        save_tuned(tmp_path / kind, task_model(alone.encoder, "bert", ["a", "b"]), alone.encoder, config)
        assert f"of the kind {kind}, which cannot be mixed with others" in refused(kind)
    rewrite(alone_copy(alone, tmp_path / "pretraining") / "config.json", architectures=["BertForMaskedLM"])
    assert "BertForMaskedLM, which is no classifier" in refused("pretraining")
    exits = EarlyExitConfig(encoder_config=AutoConfig.from_pretrained(alone.encoder).to_dict(), exit_layers=[1])
    exits.architectures = ["EarlyExitForSequenceClassification"]
    exits.save_pretrained(alone_copy(alone, tmp_path / "exits"))
    assert "EarlyExitForSequenceClassification, which is no classifier of transformers" in refused("exits")
    rewrite(alone_copy(alone, tmp_path / "ranks") / "adapter_config.json", r=3)
    assert "lora_A of the adapter 'ranks' has the shape (2, 16), which should be (3, 16)" in refused("ranks")


def test_an_adapter_of_another_encoder(alone, tmp_path):
    """The one that its config names was replaced by a larger or a deeper one."""
    for change in ({"hidden_size": 32}, {"num_hidden_layers": 1}):
        encoder = tmp_path / next(iter(change))
        AutoModel.from_config(AutoConfig.for_model("bert", **BERT | change)).save_pretrained(encoder)
        with pytest.raises(InputError, match="encoder"):
            MixedAdapters.load(alone.folders, ["spam"], encoder=encoder)


def test_a_method_that_is_not_known(alone, tmp_path):
    rewrite(alone_copy(alone, tmp_path / "spam") / "adapter_config.json", peft_type="NOPE")
    with pytest.raises(InputError, match=r"^The adapter .*spam is of the method 'NOPE', which is not known here"):
        MixedAdapters.load({"spam": tmp_path / "spam"})


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("adapter_config.json", {"base_model_name_or_path": None}),
        ("config.json", {"model_type": "nope"}),
        ("config.json", {"architectures": None}),
        ("config.json", {"id2label": {"0": "a", "2": "b"}}),
        ("manifest.json", {"sha256": None}),
    ],
)
def test_files_that_say_what_cannot_be(alone, tmp_path, file, changes):
    folder = alone_copy(alone, tmp_path / "spam")
    (folder / "manifest.json").write_text('{"encoder_fingerprint": "", "sha256": {}}')
    rewrite(folder / file, **changes)
    with pytest.raises(InputError, match=rf"^{file} of the adapter 'spam' in .* cannot be used \(.*; save it anew\.$"):
        MixedAdapters.load({"spam": folder})


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "config.json"])
def test_missing_and_damaged_files(alone, tmp_path, file):
    folder = alone_copy(alone, tmp_path / "spam")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"^{file} of the adapter .*spam.* cannot be (used|read) "):
        MixedAdapters.load({"spam": folder})
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"'spam' has no {file} in"):
        MixedAdapters.load({"spam": folder})


def alone_copy(alone: Alone, folder: Path) -> Path:
    return Path(shutil.copytree(alone.folders["spam"], folder))


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_layer_that_nobody_uses_any_more_may_be_trained_whole_by_the_next(alone, tmp_path):
    """And the other way round; the bare base stays what it is."""
    head = ["bert.pooler.dense", "classifier"]
    save_adapter(tmp_path / "whole", alone.encoder, "bert", 2, ["key"], modules_to_save=[*head, "query"])
    mixed = MixedAdapters.load({"spam": alone.folders["spam"]})
    with pytest.raises(InputError, match="one has LoRA in .*query and the other has trained it whole"):
        mixed.add("whole", tmp_path / "whole")
    bare = mixed(**alone.inputs, adapters=[None] * 3).last_hidden_state
    for gone, name, folder in (("spam", "whole", tmp_path / "whole"), ("whole", "spam", alone.folders["spam"])):
        mixed.remove(gone)
        mixed.add(name, folder)
        expected = MixedAdapters.load({name: folder})(**alone.inputs, adapters=[name, None, name])
        found = mixed(**alone.inputs, adapters=[name, None, name])
        torch.testing.assert_close(found.logits[0], expected.logits[0])
        torch.testing.assert_close(mixed(**alone.inputs, adapters=[None] * 3).last_hidden_state, bare)

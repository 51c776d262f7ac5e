"""Folders of fine-tuned models that are not what they were, and encoders that are not theirs."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig

from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from tests.families import BERT
from tests.trainers.tuner_cases import Workshop

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(params=["lora", "houlsby", "prefix", "deep_prompt"])
def folder(workshop, tmp_path, request) -> Path:
    """An adapter's, to be altered."""
    return Path(shutil.copytree(workshop.tuned(request.param, "bert").folder, tmp_path / "adapter"))


def refused(address: Path, message: str, **options) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_finetuned(address, **options)
    assert "\n" not in str(error.value)
    assert "adapter" in str(error.value) or "fine-tuned model" in str(error.value)


def change_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_tensors(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (CONFIG, r"The adapter .* lacks its adapter_config\.json; fetch or train the adapter again"),
        (WEIGHTS, r"adapter_model\.safetensors of the adapter .* cannot be read"),
        ("config.json", "There is no fine-tuned model at"),
    ],
)
def test_a_missing_file(folder, name, message):
    (folder / name).unlink()
    refused(folder, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (CONFIG, r"adapter_config\.json of the adapter .* cannot be read"),
        (WEIGHTS, r"adapter_model\.safetensors of the adapter .* cannot be read \(.*fetch or train the adapter again"),
        ("config.json", "There is no fine-tuned model at"),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_truncated_file(folder, name, message, share):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * share)])
    refused(folder, message)


def test_tensors_that_are_missing_or_too_many(folder):
    whole = shutil.copytree(folder, folder.with_name("whole"))

    def lose(tensors):
        del tensors[max(tensors)]

    change_tensors(folder / WEIGHTS, lose)
    refused(folder, r"adapter_model\.safetensors of the adapter .* lacks 1 tensors, such as base_model\.model\.")
    change_tensors(whole / WEIGHTS, lambda tensors: tensors.update({"stranger": tensors[max(tensors)].clone()}))
    refused(whole, "has too many 1 tensors, such as stranger")


def test_a_head_for_another_number_of_labels(folder):
    labels = {"0": "cat", "1": "dog", "2": "owl", "3": "hen"}
    change_json(folder / "config.json", id2label=labels, label2id={name: int(i) for i, name in labels.items()})
    refused(folder, r"The head of the adapter .* \(classifier\.\w+\) is for 3 classes and the labels .* are 4; give")


def test_an_encoder_of_another_architecture_or_size(workshop, folder, tmp_path):
    refused(
        folder, r"was trained on a bert encoder, and .* is a roberta; say where", encoder=workshop.encoder("roberta")
    )
    refused(folder, "was trained on a bert encoder, and .* is a vit; say where", encoder=workshop.encoder("vit"))
    larger = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    AutoModel.from_config(BertConfig(**BERT | larger)).save_pretrained(tmp_path / "larger")
    refused(
        folder,
        r"was trained on another encoder than .*larger \(bert\..* is missing there or of another size\); say where",
        encoder=tmp_path / "larger",
    )
    AutoModel.from_config(BertConfig(**BERT)).save_pretrained(tmp_path / "retrained")
    refused(
        folder,
        "was trained on another encoder than .*retrained: of that architecture, but with other weights; say where",
        encoder=tmp_path / "retrained",
    )
    AutoModel.from_config(BertConfig(**BERT | {"num_hidden_layers": 1})).save_pretrained(tmp_path / "shallow")
    refused(folder, r"another encoder than .*shallow \(bert\.encoder\.layer\.1\.", encoder=tmp_path / "shallow")


def test_an_adapter_config_that_was_altered(workshop, tmp_path):
    folder = Path(shutil.copytree(workshop.tuned("lora", "bert").folder, tmp_path / "adapter"))
    change_json(folder / CONFIG, r=4)
    refused(folder, r"lora_\w+.* of the adapter .* is of shape .*, where the bert encoder has .*; give the encoder")
    change_json(folder / CONFIG, r=8, target_modules=".*nowhere")
    refused(
        folder,
        r"does not fit into the bert encoder \(No modules were targeted.*\); give the encoder that it was trained on",
    )
    change_json(folder / CONFIG, peft_type="TELEPATHY")
    refused(folder, "is of the method 'TELEPATHY', which is not known here; install")


def test_a_broken_encoder_of_an_adapter(workshop, tmp_path):
    encoder = Path(shutil.copytree(workshop.encoder("bert"), tmp_path / "encoder"))
    (encoder / "model.safetensors").write_bytes(b"nothing")
    refused(
        workshop.tuned("lora", "bert").folder,
        rf"The weights of {re.escape(str(encoder))}, the encoder of the adapter .*, cannot be read",
        encoder=encoder,
    )


def test_a_whole_model_that_was_altered(workshop, tmp_path):
    folder = Path(shutil.copytree(workshop.tuned("bitfit", "bert").folder, tmp_path / "model"))
    whole = (folder / "model.safetensors").read_bytes()

    def lose(tensors):
        del tensors["classifier.weight"]

    change_tensors(folder / "model.safetensors", lose)
    with pytest.raises(InputError, match=r"not those of its config\.json \(classifier\.weight is missing"):
        load_finetuned(folder)
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"The weights of .* cannot be read \(.*; fetch or train the model again"):
        load_finetuned(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"The weights of .* cannot be read"):
        load_finetuned(folder)


@pytest.mark.parametrize("family", ["bert", "vit", "wav2vec2"])
@pytest.mark.parametrize("share", [0.5, None])
def test_a_preprocessor_that_was_altered(workshop, tmp_path, family, share):
    folder = Path(shutil.copytree(workshop.tuned("lora", family).folder, tmp_path / "adapter"))
    file = folder / ("tokenizer.json" if family == "bert" else "preprocessor_config.json")
    if share is None:
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * share)])
    refused(folder, "The preprocessor of the fine-tuned model .* cannot be read .*; fetch or train the model again")

"""There and back again: every weight, every setting."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
    WavLMConfig,
)

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.from_fairseq import convert_from_fairseq
from hf_ssl.hub.conversion.reading import read_checkpoint
from hf_ssl.hub.conversion.to_fairseq import convert_to_fairseq
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig
from tests.hub.conversion.fairseq_models import (
    MODELS,
    as_args,
    cfg,
    random_weights,
    save,
    save_fine_tuned,
    save_pretrained,
    shapes_of,
)

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embedding_groups": 4,
}


def assert_same_weights(left: Path, right: Path) -> None:
    left_weights, right_weights = read_checkpoint(left).weights, read_checkpoint(right).weights
    assert left_weights.keys() == right_weights.keys()
    for name, weight in left_weights.items():
        assert weight.dtype == right_weights[name].dtype, name
        assert torch.equal(weight, right_weights[name]), name


@pytest.mark.parametrize("to", ["transformers", "hf_ssl"])
@pytest.mark.parametrize("name", MODELS)
def test_pretrained(name: str, to: str, tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", name)
    folder = convert_from_fairseq(source, tmp_path / "converted", to).path
    back = convert_to_fairseq(folder, tmp_path / "back" / "model.pt")
    assert_same_weights(source, back.path)
    state = torch.load(back.path, weights_only=True)
    assert state["cfg"] == cfg(MODELS[name])
    assert state["args"] is None
    assert ("_ema" in state["model"]) == (name == "data2vec")
    assert state["optimizer_history"][-1]["num_updates"] == 25_000
    assert back.made_up == back.lacking == []


@pytest.mark.parametrize("name", MODELS)
def test_fine_tuned(name: str, tmp_path: Path) -> None:
    source = save_fine_tuned(tmp_path / "model.pt", name)
    dictionary = tmp_path / "dict.ltr.txt"
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers", dictionary).path
    back = convert_to_fairseq(folder, tmp_path / "back" / "model.pt").path
    assert_same_weights(source, back)
    assert torch.load(source)["cfg"] == torch.load(back)["cfg"]
    assert (back.parent / "dict.ltr.txt").read_text(encoding="utf-8") == dictionary.read_text(encoding="utf-8")


def test_old_settings_and_file_format(tmp_path: Path) -> None:
    weights = random_weights(shapes_of(MODELS["wav2vec2"]))
    args = as_args(cfg(MODELS["wav2vec2"]))
    source = tmp_path / "old.pt"
    torch.save({"args": args, "model": weights}, source, _use_new_zipfile_serialization=False)
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers").path
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_codevectors_per_group"] == 5
    back = convert_to_fairseq(folder, tmp_path / "back.pt").path
    assert_same_weights(source, back)
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(back)
    assert state["args"] == args
    assert state["cfg"] is None


def test_newer_names_of_weight_norm(tmp_path: Path) -> None:
    """They are read, and written by the older ones, which alone fairseq knows."""
    weights = random_weights(shapes_of(MODELS["hubert"]))
    old, new = ("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")
    renamed = dict(weights)
    for before, after in zip(old, new, strict=True):
        renamed[f"encoder.pos_conv.0.{after}"] = renamed.pop(f"encoder.pos_conv.0.{before}")
    newer = save(tmp_path / "newer.pt", cfg(MODELS["hubert"]), renamed)
    older = save(tmp_path / "older.pt", cfg(MODELS["hubert"]), weights)
    folder = convert_from_fairseq(newer, tmp_path / "converted", "transformers").path
    assert_same_weights(older, convert_to_fairseq(folder, tmp_path / "back.pt").path)


@pytest.mark.parametrize("to", ["transformers", "hf_ssl"])
def test_precision_is_kept(to: str, tmp_path: Path) -> None:
    weights = {name: weight.half() for name, weight in random_weights(shapes_of(MODELS["hubert"])).items()}
    source = save(tmp_path / "model.pt", cfg(MODELS["hubert"]), weights)
    folder = convert_from_fairseq(source, tmp_path / "converted", to).path
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert_same_weights(source, convert_to_fairseq(folder, tmp_path / "back.pt").path)


def test_student_in_half_precision_keeps_its_teacher_in_full(tmp_path: Path) -> None:
    weights = random_weights(shapes_of(MODELS["data2vec"]))
    weights = {name: w if name.startswith("_ema.") else w.half() for name, w in weights.items()}
    source = save(tmp_path / "model.pt", cfg(MODELS["data2vec"]), weights)
    folder = convert_from_fairseq(source, tmp_path / "converted", "hf_ssl").path
    assert_same_weights(source, convert_to_fairseq(folder, tmp_path / "back.pt").path)


def test_a_teacher_that_was_not_there_is_the_student(tmp_path: Path) -> None:
    shapes = {name: s for name, s in shapes_of(MODELS["data2vec"]).items() if not name.startswith("_ema.")}
    weights = {name: weight.half() for name, weight in random_weights(shapes).items()}
    source = save(tmp_path / "model.pt", cfg(MODELS["data2vec"]), weights)
    converted = convert_from_fairseq(source, tmp_path / "converted", "hf_ssl")
    assert converted.made_up == ["teacher (a copy of the student)"]
    weights = load_file(converted.path / "model.safetensors")
    teacher = {name: weight for name, weight in weights.items() if name.startswith("teacher.")}
    assert len(teacher) > 50
    for name, weight in teacher.items():  # in full precision, whatever the student's
        assert torch.equal(weight, weights[name.replace("teacher.", "encoder.encoder.", 1)].float())
        assert weight.dtype == torch.float32


def save_plain(model: Any, folder: Path) -> dict[str, Tensor]:
    """A checkpoint that fairseq has never seen, with its preprocessor."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return model.state_dict()


@pytest.mark.parametrize(
    ("model_class", "config", "made_up"),
    [
        (Wav2Vec2Model, Wav2Vec2Config(**TINY, num_conv_pos_embeddings=8), []),
        # Without SpecAugment, transformers builds no mask embedding.
        (HubertModel, HubertConfig(**TINY, num_conv_pos_embeddings=8, mask_time_prob=0.0), ["mask_emb"]),
        (Data2VecAudioModel, Data2VecAudioConfig(**TINY, num_conv_pos_embeddings=2, conv_pos_kernel_size=5), ["_ema"]),
    ],
)
def test_an_encoder_from_elsewhere_gets_settings(
    model_class: type, config: Any, made_up: list[str], tmp_path: Path
) -> None:
    weights = save_plain(model_class(config), tmp_path / "plain")
    converted = convert_to_fairseq(tmp_path / "plain", tmp_path / "model.pt")
    assert converted.made_up == made_up
    assert converted.lacking == ["final_proj"]
    settings = torch.load(converted.path, weights_only=True)["cfg"]
    assert settings["task"]["normalize"] is True
    assert settings["model"]["conv_feature_layers"] == "[(16, 10, 5), (16, 3, 2)]"
    if model_class is not Wav2Vec2Model:  # whose heads fairseq needs to build it, quantised or not
        back = convert_from_fairseq(converted.path, tmp_path / "back", "transformers").path
        loaded = model_class.from_pretrained(back).state_dict()
        assert loaded.keys() == weights.keys() | ({"masked_spec_embed"} if made_up == ["mask_emb"] else set())
        assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def test_an_objective_of_ours_becomes_a_checkpoint_of_fairseq(tmp_path: Path) -> None:
    encoder = HubertConfig(**TINY, num_conv_pos_embeddings=8)
    config = HubertPreTrainingConfig(encoder_config=encoder, num_clusters=5, final_dim=6, alpha=0.7)
    weights = save_plain(HubertForPreTraining(config), tmp_path / "ours")
    converted = convert_to_fairseq(tmp_path / "ours", tmp_path / "model.pt")
    assert converted.made_up == ["label_embs_concat[:4]"]
    embeddings = read_checkpoint(converted.path).weights["label_embs_concat"]
    assert embeddings.shape == (9, 6)
    assert torch.equal(embeddings[4:], weights["codebook"])
    assert 0 <= embeddings[:4].min() < embeddings[:4].max() <= 1
    assert (tmp_path / "dict.km.txt").read_text(encoding="utf-8") == "0 1\n1 1\n2 1\n3 1\n4 1\n"
    back = convert_from_fairseq(converted.path, tmp_path / "back", "hf_ssl").path
    loaded = HubertForPreTraining.from_pretrained(back)
    assert loaded.config.alpha == pytest.approx(0.7)
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in weights.items())


def test_names_in_the_settings_lead_nowhere_else(tmp_path: Path) -> None:
    source = save_fine_tuned(tmp_path / "model.pt", "wav2vec2")
    state = torch.load(source)
    state["cfg"]["task"]["labels"] = "x/../../../ltr"
    torch.save(state, source)
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers", tmp_path / "dict.ltr.txt").path
    (tmp_path / "back" / "dict.x").mkdir(parents=True)
    convert_to_fairseq(folder, tmp_path / "back" / "model.pt")
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"dict.x", "dict.ltr.txt", "model.pt"}


def test_settings_of_another_encoder_are_refused(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", "hubert")
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers").path
    file = folder / "fairseq.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"encoder_layers": 3', '"encoder_layers": 4'), "utf-8")
    with pytest.raises(InputError, match="says encoder_layers = 4, but the encoder there has 3; remove that file"):
        convert_to_fairseq(folder, tmp_path / "back.pt")


def test_codewords_of_special_symbols_are_missed(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", "hubert")
    folder = convert_from_fairseq(source, tmp_path / "converted", "hf_ssl").path
    (folder / "fairseq.safetensors").unlink()
    with pytest.raises(InputError, match=r"fairseq\.safetensors, which holds .* is gone"):
        convert_to_fairseq(folder, tmp_path / "back.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["WavLMModel"]}, "no conversion to fairseq for the class 'WavLMModel'"),
        ({"layer_norm_eps": 1e-6}, "fairseq has no encoder with layer_norm_eps = 1e-06"),
        ({"add_adapter": True}, "lacks adapter"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"conv_bias": True}, "lacks feature_extractor"),
    ],
)
def test_what_fairseq_has_not_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    save_plain(Wav2Vec2Model(Wav2Vec2Config(**TINY, num_conv_pos_embeddings=8)), tmp_path / "plain")
    file = tmp_path / "plain" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        convert_to_fairseq(tmp_path / "plain", tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_another_encoder_under_an_objective_is_refused(tmp_path: Path) -> None:
    config = HubertPreTrainingConfig(encoder_config=WavLMConfig(**TINY, num_conv_pos_embeddings=8), num_clusters=5)
    save_plain(HubertForPreTraining(config), tmp_path / "ours")
    with pytest.raises(InputError, match="holds the encoder 'wavlm'; fairseq's hubert has the one .* 'hubert'"):
        convert_to_fairseq(tmp_path / "ours", tmp_path / "model.pt")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", "hubert")
    with pytest.raises(InputError, match=r"model\.pt already exists"):
        convert_from_fairseq(source, source, "transformers")
    folder = convert_from_fairseq(source, tmp_path / "converted", "hf_ssl").path
    with pytest.raises(InputError, match="converted already exists"):
        convert_from_fairseq(source, folder, "hf_ssl")
    with pytest.raises(InputError, match=r"model\.pt already exists"):
        convert_to_fairseq(folder, source)
    assert not list(tmp_path.glob("*.partial"))


def test_unknown_weights_of_a_folder_are_named(tmp_path: Path) -> None:
    save_plain(Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**TINY, num_conv_pos_embeddings=8)), tmp_path / "head")
    file = tmp_path / "head" / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8")) | {"architectures": ["Wav2Vec2Model"]}
    file.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(InputError, match=r"has, unknown to the class, classifier\.bias, classifier\.weight"):
        convert_to_fairseq(tmp_path / "head", tmp_path / "model.pt")

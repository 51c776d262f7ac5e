from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling import OBJECTIVES
from hf_ssl.trainers.build import fresh_encoder_config, make_encoder_config, make_model
from tests.tiny import TINY

TINY_VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}


def test_what_the_data_decides_wins_where_the_encoder_has_it() -> None:
    vit = make_encoder_config({**TINY_VIT, "image_size": 64}, {"image_size": 32})
    assert isinstance(vit, ViTConfig)
    assert vit.image_size == 32
    assert isinstance(make_encoder_config({"model_type": "resnet"}, {"image_size": 32}), ResNetConfig)


def test_a_model_from_a_section() -> None:
    model = make_model(
        OBJECTIVES["simclr"],
        {"temperature": 0.5, "projection_size": 8, "encoder_config": TINY_VIT},
        {"encoder_config": {"image_size": 16}},
    )
    assert model.encoder.config.image_size == 16
    assert model.config.temperature == 0.5


def test_a_fresh_encoder_is_the_objectives_own_unless_named() -> None:
    row = OBJECTIVES["hubert"]
    assert fresh_encoder_config(row, {}, {}).model_type == "hubert"
    values = {"encoder_config": {"model_type": "wav2vec2", "hidden_size": 24}}
    assert fresh_encoder_config(row, values, {}).hidden_size == 24
    with pytest.raises(InputError, match="hidden_size"):
        fresh_encoder_config(row, {"encoder_config": {"hidden_size": "wide"}}, {})


def test_a_model_from_an_encoder(tmp_path: Path) -> None:
    TINY["simclr"]()[0].export_encoder(tmp_path)
    model = make_model(OBJECTIVES["simclr"], {"from_encoder": str(tmp_path), "projection_size": 8}, {})
    assert model.encoder.config.hidden_size == 32


@pytest.mark.parametrize("name", ["wav2vec2", "data2vec_audio", "best_rq", "bert"])
def test_a_whole_objective_is_continued(name: str, tmp_path: Path) -> None:
    model, batch = TINY[name]()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    model.save_pretrained(tmp_path)
    continued = make_model(OBJECTIVES[name], {"from_pretraining": str(tmp_path)}, {})
    for key, value in model.state_dict().items():
        assert torch.equal(value, continued.state_dict()[key]), key
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert {key for key, weight in continued.named_parameters() if weight.requires_grad} == trained
    assert torch.equal(model.eval()(**batch).loss, continued.eval()(**batch).loss)


def test_what_is_set_wins_over_the_continued_checkpoint(tmp_path: Path) -> None:
    TINY["hubert"]()[0].save_pretrained(tmp_path)
    row, start = OBJECTIVES["hubert"], {"from_pretraining": str(tmp_path)}
    assert make_model(row, {**start, "alpha": 0.5}, {}).config.alpha == 0.5
    with pytest.raises(InputError, match=r"does not hold the weights of this model \(see codebook\)"):
        make_model(row, start, {"num_clusters": 13})
    with pytest.raises(InputError, match="holds no SimCLR but 'hubert-pretraining'"):
        make_model(OBJECTIVES["simclr"], start, {})
    with pytest.raises(InputError, match="alpha is 2"):
        make_model(row, {**start, "alpha": 2}, {})
    with pytest.raises(InputError, match="model.from_encoder brings its own config; leave model.from_pretraining out"):
        make_model(row, {**start, "from_encoder": "x"}, {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"encoder_config": {"model_type": "vitt"}}, "did you mean 'vit'"),
        ({"encoder_config": {"model_type": "vit", "hiden_size": 3}}, "did you mean 'hidden_size'"),
        ({"from_encoder": "x", "encoder_config": {"model_type": "vit"}}, "leave model.encoder_config out"),
        ({"from_encoder": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_mistakes_name_the_remedy(values: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        make_model(OBJECTIVES["simclr"], values, {})
    assert message in str(error.value)


def test_a_checkpoint_of_an_objective_is_no_encoder(tmp_path: Path) -> None:
    TINY["simclr"]()[0].save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a checkpoint of the objective simclr"):
        make_model(OBJECTIVES["simclr"], {"from_encoder": str(tmp_path)}, {})


def test_an_encoder_of_another_modality(tmp_path: Path) -> None:
    TINY["bert"]()[0].export_encoder(tmp_path)
    with pytest.raises(InputError):
        make_model(OBJECTIVES["simclr"], {"from_encoder": str(tmp_path)}, {})

"""The house holds together: the table of objectives, its files, what importing the package registers."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

import hf_ssl
from hf_ssl.cli.list_objectives import describe
from hf_ssl.cli.main import main
from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.errors import InputError
from hf_ssl.modeling import OBJECTIVES, objective
from tests.tiny import TINY

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_five_files_and_one_line(name: str) -> None:
    row = OBJECTIVES[name]
    module = row.module.replace(".", "/")
    assert (ROOT / f"hf_ssl/modeling/{module}.py").is_file()
    folder, file = module.rsplit("/", 1)
    assert (ROOT / f"tests/modeling/{folder}/test_{file}.py").is_file()
    assert (ROOT / "model_cards" / row.card).is_file()
    assert row.recipes
    for recipe in row.recipes:
        assert read_pretraining(recipe, ["data.path=somewhere", "training.use_cpu=true"]).objective == name
    assert name in TINY


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_classes_are_registered(name: str) -> None:
    row = OBJECTIVES[name]
    config = row.config_class()
    assert AutoConfig.for_model(config.model_type).__class__ is row.config_class
    assert AutoModel._model_mapping[row.config_class] is row.model_class
    assert AutoModelForPreTraining._model_mapping[row.config_class] is row.model_class
    assert config.encoder_config.model_type == row.encoder


def test_the_rooms_stand_at_the_top_level() -> None:
    for room in ("modeling", "trainers", "model_cards"):
        assert (ROOT / room).resolve() == (ROOT / "hf_ssl" / room).resolve()


def test_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'simclr'"):
        objective("simcrl")


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table == describe()
    assert {row["name"] for row in table} == set(OBJECTIVES)
    for row in table:
        assert (ROOT / row["card"]).is_file()
        assert all((ROOT / recipe).is_file() for recipe in row["recipe_files"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert hf_ssl.__version__ in capsys.readouterr().out

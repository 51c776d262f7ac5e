from pathlib import Path

import pytest

from hf_ssl.cli.main import main, of_the_system, parse
from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.cli.run_file import build, read_run, recipe_names
from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.errors import InputError
from hf_ssl.trainers.arguments import SSLTrainingArguments

RUN = """
objective: simclr
model:
  temperature: 0.5
data:
  path: sample:emoji
training:
  learning_rate: 1e-3
  max_steps: 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(RUN, encoding="utf-8")
    return str(path)


def test_the_command_line_wins_over_the_file(file: str) -> None:
    run = read_pretraining(file, ["training.learning_rate=1e-4", "data.image_size=32", "model.projection_size=8"])
    assert run.training.learning_rate == 1e-4
    assert run.training.max_steps == 3
    assert run.training.output_dir == "runs/mine"
    assert isinstance(run.data, ImageDataArguments)
    assert run.data.image_size == 32
    assert run.model == {"temperature": 0.5, "projection_size": 8}


def test_every_recipe_can_be_read() -> None:
    sections = ("objective", "model", "data", "clustering", "training", "iterations")
    for name in recipe_names():
        assert read_run(name, sections=sections)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.learning_rat=1"], "key in section training 'learning_rat'; did you mean 'learning_rate'"),
        (["data.pth=x"], "key in section data 'pth'; did you mean 'path'"),
        (["trainig.max_steps=1"], "top-level key of a run file 'trainig'; did you mean 'training'"),
        (["training.max_steps=many"], "training.max_steps is 'many'"),
        (["training.max_steps"], "is not of the form section.key=value"),
        (["objective=simcrl"], "did you mean 'simclr'"),
        (["data.on_error=ignore"], "choose one of: raise, skip"),
        (["data.image_size=0"], "data.image_size is 0"),
    ],
)
def test_mistakes_name_the_remedy(file: str, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        read_pretraining(file, overrides)
    assert message in str(error.value)


def test_unknown_recipe_and_missing_file() -> None:
    with pytest.raises(InputError, match="did you mean 'simclr_emoji'"):
        read_run("simclr_emojis")
    with pytest.raises(InputError, match="There is no run file nowhere.yaml"):
        read_run("nowhere.yaml")


def test_broken_yaml(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("model: [1,", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(str(path))


def test_values_are_converted_to_the_fields_types() -> None:
    args = build(
        SSLTrainingArguments, {"output_dir": "x", "learning_rate": 1, "bf16": "false", "report_to": "none"}, "training"
    )
    assert isinstance(args.learning_rate, float)
    assert args.bf16 is False


def test_a_bare_no_is_a_word_where_the_setting_is_one() -> None:
    values = read_run(None, ["training.eval_strategy=no", "training.bf16=no"], ["training"])["training"]
    args = build(SSLTrainingArguments, {"output_dir": "x", **values}, "training")
    assert args.eval_strategy == "no"
    assert args.bf16 is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=my_photos"], "data is 'my_photos', but data is a section"),
        (["objective=null"], "objective is None; give its name"),
        (["training.per_device_train_batch_size=0"], "per_device_train_batch_size is 0; give at least 1"),
        (["training.gradient_accumulation_steps=0"], "gradient_accumulation_steps is 0"),
        (["training.seed=-1"], "seed is -1"),
        (["training.learning_rate=-1"], "learning_rate is -1.0"),
        (["training.report_to=tensorbord"], "did you mean 'tensorboard'"),
        (["data.max_train_items=0"], "max_train_items is 0"),
    ],
)
def test_values_that_nothing_can_be_done_with(overrides: list[str], message: str, capsys) -> None:
    assert main(["pretrain", "simclr_emoji", *overrides]) == 2
    assert message in capsys.readouterr().err


def test_a_list_is_no_run_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("- objective: simclr\n", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(str(tmp_path / "run.yaml"), ["training.max_steps=1"])


def test_a_folder_whose_name_is_a_number() -> None:
    assert build(ImageDataArguments, read_run(None, ["data.path=2024"], ["data"])["data"], "data").path == "2024"


def test_an_encoder_to_start_from_takes_the_place_of_the_recipes() -> None:
    run = read_pretraining("simclr_emoji", ["model.from_encoder=facebook/dinov2-small"])
    assert "encoder_config" not in run.model
    assert run.model["from_encoder"] == "facebook/dinov2-small"


def test_an_output_folder_under_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["quickstart", "--modality", "vision", "--output", str(tmp_path / "file" / "here")]) == 2
    assert "cannot be used (Not a directory)" in capsys.readouterr().err


def test_an_error_of_the_system_behind_that_of_a_library() -> None:
    full = OSError(28, "No space left on device", "/data/cache")
    error = ValueError("I/O operation on closed file")
    error.__context__ = full
    assert str(of_the_system(error)).startswith("/data/cache cannot be written (No space left on device); free some")
    assert of_the_system(ValueError("no")) is None
    error.__context__ = FileNotFoundError(2, "No such file or directory", "/data/cache")
    assert of_the_system(error) is None, "a defect is not excused by what was tried before"


def test_exit_code_2_and_one_sentence(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", file, "training.max_step=1"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "hf-ssl: There is no key in section training 'max_step'; did you mean 'max_steps'?\n"


def test_settings_may_stand_anywhere() -> None:
    args = parse(["pretrain", "simclr_emoji", "data.path=a", "--resume", "training.max_steps=1"])
    assert args.resume
    assert args.overrides == ["data.path=a", "training.max_steps=1"]
    args = parse(["evaluate", "encoder", "--data", "d", "--label", "l", "data.max_train_items=5"])
    assert args.overrides == ["data.max_train_items=5"]


@pytest.mark.parametrize(
    "words", [["list", "a.b=1"], ["pretrain", "x", "--resum", "--nothing"], ["export", "a", "b", "c"]]
)
def test_what_is_no_setting_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(words)
    assert stop.value.code == 2

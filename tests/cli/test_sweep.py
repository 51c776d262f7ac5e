import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hf_ssl.cli import sweep as sweep_command
from hf_ssl.cli.finetune import read_fine_tuning
from hf_ssl.cli.main import main
from hf_ssl.errors import InputError
from hf_ssl.trainers import sweep as sweep_module
from hf_ssl.trainers.sweep import Compared, Sweep, primary_metric
from tests.tiny_encoders import save_image_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return str(save_image_encoder(tmp_path_factory.mktemp("encoder")))


def command(encoder, output, *more):
    return [
        "sweep",
        f"model.encoder={encoder}",
        "model.task=image-classification",
        "data.path=sample:emoji",
        "data.label_column=category",
        "data.max_train_items=16",
        f"training.output_dir={output}",
        "training.max_steps=2",
        "training.save_strategy=no",
        "training.per_device_eval_batch_size=512",
        "training.use_cpu=true",
        "training.disable_tqdm=true",
        *more,
    ]


@pytest.fixture(scope="module")
def swept(encoder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("swept")
    rates = ["--learning-rates", "1e-30,0.01"]
    assert main(command(encoder, output, "--tuners", "none", "lora", "--seeds", "1", "2", *rates)) == 0
    return output


def test_what_a_sweep_writes_is_what_its_runs_measured(swept):
    rows = {row["tuner"]: row for row in json.loads((swept / "sweep.json").read_text())}
    assert list(rows) == ["none", "lora"]
    table = (swept / "sweep.md").read_text()
    for tuner, row in rows.items():
        folder = swept / tuner / f"lr-{row['learning_rate']:g}"
        runs = [json.loads((folder / f"seed-{seed}" / "metrics.json").read_text()) for seed in (1, 2)]
        for split in ("validation", "test"):
            values = [run[split]["accuracy"] for run in runs]
            assert row["scores"][split]["accuracy"] == values
            mean = sum(values) / 2
            spread = sum((value - mean) ** 2 for value in values) ** 0.5  # n - 1 = 1
            assert row["statistics"][split]["accuracy"]["mean"] == pytest.approx(mean)
            assert row["statistics"][split]["accuracy"]["standard_deviation"] == pytest.approx(spread)
            assert f"{mean:.4f} ± {spread:.4f}" in table
        for key in ("num_trained_parameters", "num_parameters", "size_on_disk"):
            assert row[key] == runs[0][key]
        share = row["num_trained_parameters"] / row["num_parameters"]
        assert f"| {row['num_trained_parameters']:,} | {share:.2%} | {row['size_on_disk'] / 1e6:,.2f} MB |" in table
    assert rows["none"]["num_trained_parameters"] == rows["none"]["num_parameters"]
    assert rows["lora"]["size_on_disk"] < rows["none"]["size_on_disk"] / 2


def test_the_learning_rate_is_chosen_on_validation_with_the_first_seed(swept):
    for row in json.loads((swept / "sweep.json").read_text()):
        tried = {
            rate: json.loads((swept / row["tuner"] / f"lr-{rate}" / "seed-1" / "metrics.json").read_text())
            for rate in ("1e-30", "0.01")
        }
        assert row["tried"] == {rate: facts["validation"]["accuracy"] for rate, facts in tried.items()}
        assert row["tried"][f"{row['learning_rate']:g}"] == max(row["tried"].values())
        others = [rate for rate in tried if rate != f"{row['learning_rate']:g}"]
        assert not (swept / row["tuner"] / f"lr-{others[0]}" / "seed-2").exists()


def test_the_plot_has_every_tuner(swept):
    svg = (swept / "sweep.svg").read_text()
    ElementTree.fromstring(svg)
    for said in ("full fine-tuning", "lora", "trained parameters", "accuracy, test"):
        assert said in svg


def test_what_is_finished_is_kept_and_a_run_that_fails_does_not_end_the_others(encoder, tmp_path, capsys, monkeypatch):
    fine_tune, made = sweep_module.fine_tune, []

    def fails_once(run, **options):
        made.append(Path(run.training.output_dir).relative_to(tmp_path).as_posix())
        if made[-1].startswith("bitfit") and len(made) == 1:
            raise RuntimeError("the disk sighed\nand more")
        return fine_tune(run, **options)

    monkeypatch.setattr(sweep_module, "fine_tune", fails_once)
    arguments = command(encoder, tmp_path, "--tuners", "bitfit,head", "--seeds", "1", "training.learning_rate=0.01")
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert re.search(r"1 runs failed: .*bitfit/lr-0\.01/seed-1 \(the disk sighed\); start the same command", said.err)
    assert "| bitfit | failed |" in said.out
    assert "| head | " in said.out
    assert made == ["bitfit/lr-0.01/seed-1", "head/lr-0.01/seed-1"]
    assert main(arguments) == 0
    assert made[2:] == ["bitfit/lr-0.01/seed-1"]  # the other is there
    assert not json.loads((tmp_path / "sweep.json").read_text())[0]["failures"]


def test_runs_of_other_settings_are_not_taken_for_ones_of_this_sweep(encoder, swept, tmp_path, capsys):
    output = shutil.copytree(swept, tmp_path / "swept")
    arguments = [word.replace("max_steps=2", "max_steps=3") for word in command(encoder, output)]
    assert main([*arguments, "--tuners", "lora", "--seeds", "1", "--learning-rates", "0.01"]) == 2
    assert "is of a run with training.max_steps=2, and this sweep has 3; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tuners", "none", "lore"], "did you mean 'lora'"),
        (["--tuners", "lora,lora"], "--tuners names one twice"),
        (["--seeds", "one"], "--seeds one cannot be used"),
        (["--seeds", "1", "1"], "--seeds names one twice"),
        (["--learning-rates", "0.1", "-1"], "learning-rates"),
        (["--learning-rates", "0.1,0"], "greater than 0"),
        (["--learning-rates", "0.1,0.2", "data.validation_split=null"], "Learning rates are chosen on validation"),
        (["--seeds", "1", "model.tunr=lora"], "did you mean 'tuner'"),
    ],
)
def test_sweeps_that_cannot_be(encoder, tmp_path, capsys, more, message):
    try:
        code = main(command(encoder, tmp_path, *more))
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_of_a_recipe_has_a_folder_of_its_own(monkeypatch):
    plans = []

    def look(plan, command):
        plans.append(plan)
        raise InputError("enough")

    monkeypatch.setattr(sweep_command, "sweep", look)
    assert main(["sweep", "finetune_emoji_lora", "--seeds", "4", "training.use_cpu=true", "--tuners", "none,ia3"]) == 2
    (plan,) = plans
    assert plan.run.training.output_dir == "runs/finetune_emoji_lora_sweep"
    assert (plan.tuners, plan.seeds, plan.run.training.use_cpu) == (["none", "ia3"], [4], True)
    assert plan.run_of("ia3", 0.001, 4).training.output_dir == "runs/finetune_emoji_lora_sweep/ia3/lr-0.001/seed-4"


def test_of_an_error_rate_the_least_is_best_and_one_seed_has_no_spread(tmp_path, monkeypatch, encoder):
    settings = [word for word in command(encoder, tmp_path) if "=" in word]
    plan = Sweep(run=read_fine_tuning(None, settings), tuners=["lora"], seeds=[1], learning_rates=[0.1, 0.2])

    def fake(run, **options):
        rate = 0.3 if run.training.learning_rate == 0.1 else 0.2
        facts = {"num_trained_parameters": 1, "num_parameters": 2, "size_on_disk": 3}
        splits = {split: {"wer": rate, "loss": 1.0} for split in ("validation", "test")}
        (Path(run.training.output_dir) / "metrics.json").write_text(json.dumps(facts | splits))

    monkeypatch.setattr(sweep_module, "fine_tune", fake)
    (row,) = sweep_module.sweep(plan, command="hf-ssl sweep")
    assert row.learning_rate == 0.2
    assert primary_metric(row) == "wer"
    assert row.spread("test", "wer") is None
    assert Compared("lora").scores == {}
    with pytest.raises(InputError, match="at least one tuner and one seed"):
        Sweep(run=plan.run, tuners=[], seeds=[1])

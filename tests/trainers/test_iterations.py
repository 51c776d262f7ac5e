"""All iterations of HuBERT in one command, whenever it is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from hf_ssl.cli.main import main
from hf_ssl.cli.pretrain import read_iterations, read_pretraining
from hf_ssl.data.units import load_units
from tests.trainers.recordings import write_recordings
from tests.two_processes import run_two_processes

ROOT = Path(__file__).parents[2]

ENCODER = {
    "model_type": "hubert",
    "conv_dim": [16, 32],
    "conv_kernel": [40, 16],
    "conv_stride": [20, 16],
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 15,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.1,
}

RUN = {
    "objective": "hubert",
    "model": {"mask_time_length": 5, "final_dim": 16, "feature_penalty_weight": 0.0, "encoder_config": ENCODER},
    "data": {"sampling_rate": 16_000, "max_seconds": 2.0},
    "clustering": {"num_clusters": 6},
    "training": {
        "max_steps": 4,
        "save_steps": 2,
        "max_batch_length": 10.0,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
    },
    "iterations": [{}, {"clustering": {"layer": 1, "num_clusters": 10}, "training": {"learning_rate": 2e-3}}],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("iterations")
    write_recordings(folder / "recordings", {"train": 16, "validation": 4})
    run = {**RUN, "data": {**RUN["data"], "path": str(folder / "recordings" / "tables")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    return str(folder / "run.yaml")


def test_each_iteration_has_its_folder_and_clusters_the_one_before(file, tmp_path):
    output = tmp_path / "runs"
    first, second = read_iterations(file, [f"training.output_dir={output}"])
    assert first.training.output_dir == f"{output}/iteration-1"
    assert second.training.output_dir == str(output)
    assert (first.clustering.features, first.clustering.layer, first.clustering.num_clusters) == ("mfcc", None, 6)
    assert second.clustering.features == f"{output}/iteration-1/encoder"
    assert (second.clustering.layer, second.clustering.num_clusters) == (1, 10)
    assert (first.training.learning_rate, second.training.learning_rate) == (1e-3, 2e-3)
    assert read_pretraining(file, []).training.output_dir == "runs/run"


def test_a_setting_is_for_all_iterations_or_for_one(file):
    settings = [
        "training.learning_rate=5e-4",
        "iterations[1].training.max_steps=9",
        "model.encoder_config.hidden_size=8",
    ]
    first, second = read_iterations(file, settings)
    assert (first.training.learning_rate, second.training.learning_rate) == (5e-4, 5e-4)
    assert (first.training.max_steps, second.training.max_steps) == (4, 9)
    for run in (first, second):
        assert run.model["encoder_config"] == {**ENCODER, "hidden_size": 8}
    (only,) = read_iterations(file, ["iterations=null"])
    assert (only.clustering.features, only.training.output_dir) == ("mfcc", "runs/run")


def test_given_features_and_units_are_kept(file):
    settings = ["iterations[1].clustering={features: log_mel, layer: null}", "iterations[0].data.units=mine"]
    first, second = read_iterations(file, settings)
    assert (first.data.units, second.data.units) == ("mine", None)
    assert second.clustering.features == "log_mel"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("iterations[1].clustering.layer=3", r"clusters layer 3 .* has layers 0 to 2; set iterations\[1\].clustering"),
        ("iterations[1].clustering.layer=null", "clusters layer None of the encoder before it"),
        ("iterations[1].data.sampling_rate=8000", "reads recordings at 8000 Hz, but .* an encoder of 16000 Hz"),
        ("iterations[1].trainin.max_steps=1", r"top-level key of iterations\[1\] 'trainin'; did you mean 'training'"),
        ("iterations[0].training.output_dir=x", "set training.output_dir, the folder of them all"),
        ("iterations[5].training.max_steps=1", r"The settings iterations\[5\].* cannot be used"),
        ("iterations=2", "iterations is 2; give a list"),
        ("data.units=mine", r"data.units are those of one iteration; .*iterations\[0\].data.units"),
        (
            "objective=data2vec_audio",
            "data2vec_audio predicts no units; leave data.units and the section clustering out",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(file, tmp_path, capsys, setting, message):
    output = tmp_path / "run"
    assert main(["pretrain", file, f"training.output_dir={output}", setting]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


def assert_same_run(first: Path, second: Path) -> None:
    """Everything that does not tell the time or the folder is equal, bit by bit."""
    for folder in ("", "iteration-1"):
        for weights in ("encoder", "pretraining", "checkpoint-4"):
            one, other = (load_file(run / folder / weights / "model.safetensors") for run in (first, second))
            assert one.keys() == other.keys()
            assert all(one[name].equal(other[name]) for name in one)
        one, other = (load_units(run / folder / "units").splits for run in (first, second))
        assert one.keys() == other.keys()
        assert all(one[split].equals(other[split]) for split in one)


@pytest.mark.parametrize("places", ["024", pytest.param("01234", marks=pytest.mark.slow)])
def test_killed_at_any_stage_it_ends_as_if_it_had_not_been(file, tmp_path, places):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script = [
        sys.executable,
        str(Path(__file__).with_name("iterations_killed.py")),
        str(whole),
        str(killed),
        file,
        *places,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    uninterrupted, *runs = json.loads(done.stdout.splitlines()[-1])
    assert uninterrupted["code"] == 0, done.stderr
    assert [run["code"] for run in runs] == [-signal.SIGKILL] * len(places) + [0], done.stderr
    assert_same_run(whole, killed)
    for earlier, later in pairwise(runs):
        unfinished = (
            {"iteration-1/encoder/model.safetensors"} if "iteration-1/README.md" not in earlier["files"] else {}
        )
        for name in earlier["files"].keys() - unfinished:
            assert later["files"][name] == earlier["files"][name], f"{name} was made again"
    assert not (killed / "units" / "shards").exists()


def test_what_the_folder_holds_is_the_last_iteration(file, tmp_path):
    output = tmp_path / "run"
    command = ["pretrain", file, f"training.output_dir={output}"]
    assert main(command) == 0
    units = load_units(output / "units")
    assert (units.num_clusters, units.label_rate, units.info["layer"]) == (10, 50.0, 1)
    assert units.info["features"] == str(output / "iteration-1" / "encoder")
    assert load_units(output / "iteration-1" / "units").label_rate == 100.0
    assert AutoModel.from_pretrained(output / "pretraining").config.num_clusters == 10
    metrics = (output / "metrics.json").stat().st_mtime_ns
    assert main(command) == 2, "it is not begun anew without a word"
    assert main([*command, "--resume"]) == 0
    assert (output / "metrics.json").stat().st_mtime_ns == metrics
    assert main(["evaluate", str(output), "--data", "nowhere", "--label", "x"]) == 2  # it takes the run's folder
    hidden = AutoModel.from_pretrained(output / "encoder")(torch.zeros(1, 4000)).last_hidden_state
    assert hidden.shape == (1, 12, 32)


@pytest.mark.slow
def test_two_processes_go_through_the_iterations_together(file, tmp_path):
    script = Path(__file__).with_name("pretrain_ranks.py")
    run_two_processes(script, file, f"training.output_dir={tmp_path / 'run'}")
    assert load_units(tmp_path / "run" / "units").num_clusters == 10
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()

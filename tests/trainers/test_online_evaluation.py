"""The online probe: what it logs is right, and the training does not notice it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from hf_ssl.evaluation.features import extract_features, feature_loader
from hf_ssl.evaluation.knn import fit_knn
from hf_ssl.evaluation.probes import fit_linear_probe
from hf_ssl.trainers.online_evaluation import LINEAR_C, ONLINE_PROBE, OnlineProbe, set_apart
from tests.tiny import TINY
from tests.trainers.comparing import assert_identical, weights
from tests.trainers.recordings import write_recordings
from tests.two_processes import run_two_processes

SCRIPT = Path(__file__).parent / "probe_tiny.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("data"), {"train": 12, "validation": 8, "test": 2}).path


def run(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def read(output, rank=0):
    return json.loads((output / f"log-{rank}.json").read_text(encoding="utf-8"))


def logged(state, name):
    return [(entry["step"], entry[name]) for entry in state["log"] if name in entry]


def test_training_with_the_probe_is_bit_identical_to_training_without(data, tmp_path):
    run(data, tmp_path / "with", "--probe", "knn", "linear")
    run(data, tmp_path / "without")
    assert_identical(weights(tmp_path / "with"), weights(tmp_path / "without"))
    probed, bare = read(tmp_path / "with"), read(tmp_path / "without")
    assert probed["random"] == bare["random"]
    assert probed["modes"] == bare["modes"]
    for name in ("loss", "eval_loss", "grad_norm"):
        assert logged(probed, name) == logged(bare, name)
    for name in ("eval_knn_accuracy", "eval_probe_accuracy"):
        assert [step for step, _ in logged(probed, name)] == [2, 4, 6]
        assert all(accuracy * 8 == int(accuracy * 8) for _, accuracy in logged(probed, name))  # of 8 items
        assert not logged(bare, name)


def test_it_measures_the_output_of_the_encoder_on_the_validation_items(data):
    model, _ = TINY["hubert"]()
    splits = load_splits(SpeechDataArguments(path=data, label_column="speaker"), "speech")
    collator = LabelledCollator(modality="speech", processor=Wav2Vec2FeatureExtractor(return_attention_mask=True))
    probe = OnlineProbe(
        SimpleNamespace(model=model), splits["train"], splits["validation"], collator, methods=["knn", "linear"]
    )
    arrays = []
    for split in ("train", "validation"):
        features, labels = extract_features(model.encoder, feature_loader(splits[split], collator))
        arrays += [features[2].numpy(), labels.numpy()]
    assert probe.measure() == {
        "eval_knn_accuracy": fit_knn(*arrays).validation_accuracy,
        "eval_probe_accuracy": fit_linear_probe(*arrays, grid=[LINEAR_C]).validation_accuracy,
    }


def test_measuring_leaves_generators_and_modes_as_they_were(data):
    """With an encoder that draws even in evaluation, and a part that is frozen."""
    model, _ = TINY["hubert"]()
    model.train()
    model.encoder.feature_extractor.eval()

    def draw(*_):
        torch.rand(3)

    model.encoder.register_forward_pre_hook(draw)
    splits = load_splits(SpeechDataArguments(path=data, label_column="speaker"), "speech")
    collator = LabelledCollator(modality="speech", processor=Wav2Vec2FeatureExtractor(return_attention_mask=True))
    probe = OnlineProbe(SimpleNamespace(model=model), splits["train"], splits["validation"], collator)
    modes, states = [module.training for module in model.modules()], generator_states()
    probe.measure()
    assert [module.training for module in model.modules()] == modes
    assert generator_states() == states


def generator_states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def test_only_a_subset_is_measured_on(data):
    splits = load_splits(SpeechDataArguments(path=data, label_column="speaker"), "speech")
    collator = LabelledCollator(modality="speech", processor=Wav2Vec2FeatureExtractor())
    probes = [
        OnlineProbe(None, splits["train"], splits["validation"], collator, max_train_items=5, max_validation_items=100)
        for _ in range(2)
    ]
    assert {name: len(split) for name, split in probes[0].splits.items()} == {"train": 5, "validation": 8}
    assert list(probes[0].splits["train"]["vowels"]) == list(probes[1].splits["train"]["vowels"])
    assert list(probes[0].splits["train"]["vowels"]) != list(splits["train"]["vowels"])[:5]


@pytest.mark.slow
def test_the_first_of_two_ranks_measures_for_both(data, tmp_path):
    run_two_processes(SCRIPT, data, tmp_path, "--probe", "knn")
    first, second = (logged(read(tmp_path, rank), "eval_knn_accuracy") for rank in (0, 1))
    assert first == second
    assert [step for step, _ in first] == [2, 4, 6]


def test_unknown_method_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'linear'"):
        OnlineProbe(None, None, None, None, methods=["lineer"])


def test_it_stands_apart_in_the_metrics_of_a_run(data):
    """What metrics.json says of it cannot be taken for what `hf-ssl evaluate` measures of the finished encoder."""
    splits = load_splits(SpeechDataArguments(path=data, label_column="speaker"), "speech")
    collator = LabelledCollator(modality="speech", processor=Wav2Vec2FeatureExtractor())
    probe = OnlineProbe(None, splits["train"], splits["validation"], collator, max_train_items=5)
    trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[object(), probe]))
    metrics = {"eval_loss": 1.5, "eval_knn_accuracy": 0.5, "eval_probe_accuracy": 0.25}
    assert set_apart(metrics, trainer) == {
        "eval_loss": 1.5,
        ONLINE_PROBE: {"knn_accuracy": 0.5, "probe_accuracy": 0.25, "num_labelled": 5, "num_validation": 8},
    }
    trainer.callback_handler.callbacks = []
    assert set_apart({"eval_loss": 1.5}, trainer) == {"eval_loss": 1.5}

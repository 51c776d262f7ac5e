"""Whole runs of fine-tuning with tuners other than LoRA: broken off and resumed, and what they leave."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import make_task_model
from tests.trainers.fine_tuning_cases import Cases, training

TASK = "text-classification"
RUNS = {
    "bitfit": {},
    "houlsby": {"bottleneck_size": 4, "dropout": 0.1},
    "prefix": {"num_tokens": 3, "reparametrisation": 8, "dropout": 0.1},
    "deep_prompt": {"num_tokens": 45, "init": "classes"},
    "ia3": {},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def run_of(cases: Cases, folder: Path, tuner: str, **changes) -> FineTuningRun:
    model = FineTuningModelArguments(
        encoder=cases.encoder(TASK), task=TASK, tuner=tuner, tuner_config=RUNS[tuner] or None
    )
    steps = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4, **changes}
    return FineTuningRun(model, cases.data(TASK), training(folder, **steps))


@pytest.mark.parametrize("tuner", RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(cases, tmp_path, tuner):
    whole = fine_tune(run_of(cases, tmp_path / "whole", tuner, max_steps=4), command="hf-ssl finetune")
    fine_tune(run_of(cases, tmp_path / "halves", tuner, max_steps=2), command="hf-ssl finetune")
    fine_tune(run_of(cases, tmp_path / "halves", tuner, max_steps=4), command="hf-ssl finetune", resume=True)
    file = "model.safetensors" if tuner == "bitfit" else "adapter_model.safetensors"
    one, other = (load_file(tmp_path / folder / file) for folder in ("whole", "halves"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    facts = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert facts["size_on_disk"] == whole.size_on_disk == (tmp_path / "whole" / file).stat().st_size
    assert load_finetuned(tmp_path / "whole")[0].config.finetuning_task == TASK


def test_the_mlp_of_a_prefix_is_gone_after_training(cases, tmp_path):
    fine_tune(run_of(cases, tmp_path, "prefix", max_steps=2), command="hf-ssl finetune")
    kept, checkpoint = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "checkpoint-2")
    )
    prefixes = {name: tensor for name, tensor in kept.items() if "prefix" in name}
    assert (
        sum(tensor.numel() for tensor in prefixes.values()) == 2 * 2 * 3 * 32
    )  # layers, keys and values, tokens, width
    assert len(checkpoint) > len(kept)
    prepared = prepare_task(run_of(cases, tmp_path, "prefix").model, cases.data(TASK))
    inputs = prepared.collator([prepared.splits["train"][row] for row in range(2)])
    with torch.no_grad():
        logits = [load_finetuned(folder)[0](**inputs).logits for folder in (tmp_path, tmp_path / "checkpoint-2")]
    torch.testing.assert_close(logits[0], logits[1])


def test_a_tuner_whose_values_do_not_fit_the_encoder(cases):
    arguments = FineTuningModelArguments(
        encoder=cases.encoder(TASK),
        task=TASK,
        tuner="prompt",
        tuner_config={"init": "words", "init_words": ["a"] * 30},
    )
    with pytest.raises(InputError, match="30"):
        make_task_model(arguments, prepare_task(arguments, cases.data(TASK)).config_updates)

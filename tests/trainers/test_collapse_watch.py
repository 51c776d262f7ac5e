import logging

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.errors import InputError
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.collapse_watch import CollapseWatch
from hf_ssl.trainers.pretraining import SSLTrainer
from tests.tiny import TINY
from tests.trainers.train_tiny import NoisyCollator, Rows


def log(watch, step, **values):
    args = SSLTrainingArguments(output_dir="runs/speech", use_cpu=True)
    watch.on_log(args, TrainerState(global_step=step), TrainerControl(), logs={"loss": 1.0, **values})


def test_a_bound_holds_from_its_step_on():
    watch = CollapseWatch({"target_std": 0.1}, from_step=100)
    log(watch, 99, target_std=0.01)
    log(watch, 100, target_std=0.1)
    with pytest.raises(InputError, match=r"at step 101 target_std is 0.09, below 0.1 .*checkpoint in runs/speech"):
        log(watch, 101, target_std=0.09)
    with pytest.raises(InputError, match="target_std is nan"):
        log(watch, 102, target_std=float("nan"))


def test_a_bound_on_what_is_not_logged_is_refused_at_once():
    with pytest.raises(InputError, match=r"no logged value \(training.stop_below\) 'target_sdt'.*'target_std'"):
        log(CollapseWatch({"target_sdt": 0.1}, from_step=100), 1, target_std=0.5)


def test_other_logs_are_left_alone():
    watch = CollapseWatch({"target_std": 0.1}, from_step=0)
    args = SSLTrainingArguments(output_dir="runs/speech", use_cpu=True)
    watch.on_log(args, TrainerState(global_step=5), TrainerControl(), logs={"eval_loss": 1.0, "target_std": 0.01})
    assert not watch.warned


def test_each_sign_is_told_once_and_early(caplog):
    watch = CollapseWatch({}, from_step=5000)
    with caplog.at_level(logging.WARNING):
        for step in (10, 20):
            log(watch, step, prediction_perplexity=1.1, target_std=0.7)
    [record] = caplog.records
    assert record.getMessage().startswith("Step 10: prediction_perplexity is 1.1, below 1.5: one class is predicted")


def test_the_trainer_ends_a_run_that_collapses(tmp_path):
    model, batch = TINY["hubert"]()
    torch.nn.init.zeros_(model.projection_head.weight)
    torch.nn.init.ones_(model.projection_head.bias)  # every frame says the same
    args = SSLTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        max_steps=4,
        learning_rate=1e-9,
        logging_steps=1,
        save_steps=1,
        stop_below={"prediction_perplexity": 11.9999},
        stop_after_steps=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SSLTrainer(model, args, KeyedDataset(Rows(batch, 8)), NoisyCollator(0.0))
    with pytest.raises(InputError, match="at step 2 prediction_perplexity"):
        trainer.train()
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]

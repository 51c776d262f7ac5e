"""The trainer, as processes of its own: cut the batch as you like, kill it when you like, the weights are the same."""

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.pretraining import OptimizerSteps, SSLTrainer
from tests.modeling.vision.simclr_ranks import ENCODERS
from tests.tiny import TINY
from tests.trainers.comparing import assert_identical, assert_same_step, weights
from tests.trainers.train_tiny import NoisyCollator, Rows

SCRIPT = Path(__file__).parent / "train_tiny.py"
LAUNCHERS = {
    1: [sys.executable],
    2: [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
}
LONG = [
    "--steps=152",
    "--items=40",
    "--save-steps=4",
    "--optimizer=adamw",
    "--learning-rate=1e-3",
    "--dropout=0.1",
    "--noise=0.1",
]


def start(objective: str, output: Path, *options: str, ranks: int = 1) -> subprocess.Popen:
    return subprocess.Popen(
        [*LAUNCHERS[ranks], str(SCRIPT), objective, str(output), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(objective: str, output: Path, *options: str, ranks: int = 1) -> Path:
    process = start(objective, output, *options, ranks=ranks)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return output


def kill(process: subprocess.Popen) -> None:
    """The ranks too: the launcher gives each a session of its own, so that a signal to its group misses them."""
    launcher = psutil.Process(process.pid)
    for member in [launcher, *launcher.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def last_step(output: Path) -> int:
    return max((int(folder.name.removeprefix("checkpoint-")) for folder in output.glob("checkpoint-*")), default=0)


def train_while_being_killed(
    objective: str, output: Path, *options: str, ranks: int, kills: int, seed: int
) -> tuple[Path, int]:
    """Kill all its processes with SIGKILL, some checkpoints and a random moment after its start; then let it finish.

    Returns the folder and how many of the kills met a run that was still going.
    """
    moments, met = random.Random(seed), 0
    for _ in range(kills):
        until = last_step(output) + moments.randint(1, 30)
        process = start(objective, output, *options, ranks=ranks)
        while process.poll() is None and last_step(output) < until:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        if process.poll() is None:
            kill(process)
            met += 1
        process.communicate()
    return train(objective, output, *options, ranks=ranks), met


@pytest.mark.parametrize("objective", ["hubert", "bert"])
def test_eight_micro_batches_are_one_batch_of_eight(objective: str, tmp_path: Path) -> None:
    whole = weights(train(objective, tmp_path / "whole"))
    cut = weights(train(objective, tmp_path / "cut", "--batch-size=1", "--accumulate=8"))
    assert_same_step(TINY[objective]()[0].state_dict(), whole, cut)


@pytest.mark.parametrize("objective", ["simclr", "hubert", "wav2vec2", "bert"])
def test_two_ranks_of_four_are_one_batch_of_eight(objective: str, tmp_path: Path) -> None:
    whole = weights(train(objective, tmp_path / "whole"))
    ranks = weights(train(objective, tmp_path / "ranks", "--batch-size=4", ranks=2))
    assert_same_step(TINY[objective]()[0].state_dict(), whole, ranks)


def test_killed_and_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = weights(train("bert", tmp_path / "whole", *LONG))
    killed, met = train_while_being_killed("bert", tmp_path / "killed", *LONG, ranks=1, kills=2, seed=0)
    assert met == 2
    assert_identical(whole, weights(killed))
    assert logged_losses(tmp_path / "whole") == logged_losses(killed)


def logged_losses(output: Path) -> list[dict[str, float]]:
    state = json.loads((output / f"checkpoint-{last_step(output)}" / "trainer_state.json").read_text())
    return [
        {name: value for name, value in entry.items() if name == "step" or name.startswith("loss")}
        for entry in state["log_history"]
    ]


def test_a_stream_is_resumed_in_any_of_its_passes(tmp_path: Path) -> None:
    """20 items in batches of 8 are two and a half batches a pass; the run is resumed in its third."""
    options = ["--stream", "--items=20", "--save-steps=6", "--noise=0.1", "--optimizer=adamw", "--learning-rate=1e-3"]
    whole = weights(train("simclr", tmp_path / "whole", *options, "--steps=9"))
    train("simclr", tmp_path / "halves", *options, "--steps=6")
    assert_identical(whole, weights(train("simclr", tmp_path / "halves", *options, "--steps=9")))


def test_the_best_checkpoint_is_loaded_by_all_ranks(tmp_path: Path) -> None:
    """With this learning rate the loss grows, so that the best checkpoint is not the last."""
    options = ["--best", "--save-steps=2", "--steps=6", "--batch-size=4", "--learning-rate=30"]
    final = weights(train("bert", tmp_path, *options, ranks=2))
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 6
    best = load_file(tmp_path / f"checkpoint-{state['best_global_step']}" / "model.safetensors")
    assert all(torch.equal(final[name], value) for name, value in best.items())
    assert_identical(final, load_file(tmp_path / "model-1.safetensors"))


@pytest.mark.parametrize("objective", ["hubert", "data2vec_audio"])
def test_dropped_layers_with_recomputed_activations_on_two_ranks(objective: str, tmp_path: Path) -> None:
    """The weights, those of a teacher too, are the same on both ranks."""
    options = ["--layerdrop=0.5", "--checkpointing", "--steps=4", "--batch-size=4", "--learning-rate=0.1"]
    final = weights(train(objective, tmp_path, *options, ranks=2))
    start = TINY[objective]()[0].state_dict()
    assert any(not torch.equal(final[name], start[name]) for name in final if ".layers." in name)
    assert all(value.isfinite().all() for value in final.values())
    assert_identical(final, load_file(tmp_path / "model-1.safetensors"))


def test_of_several_gpus_one_process_uses_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, args = TINY["bert"]()[0], SSLTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    args._n_gpu = 2
    trainer = SSLTrainer(model, args, None, lambda rows: rows)
    assert "Of 2 GPUs this process uses the first" in caplog.text
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == args.per_device_train_batch_size


def test_an_encoder_that_cannot_recompute_its_activations(tmp_path: Path) -> None:
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=ENCODERS["resnet"]))
    args = SSLTrainingArguments(output_dir=str(tmp_path), gradient_checkpointing=True, use_cpu=True)
    with pytest.raises(InputError, match="cannot recompute its activations"):
        SSLTrainer(model, args, None, lambda rows: rows)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("objective", TINY)
def test_killed_three_times_on_one_and_two_processes(objective: str, ranks: int, tmp_path: Path) -> None:
    options = [*LONG, "--batch-size=4", "--workers=1", "--accumulate=2"]
    whole = weights(train(objective, tmp_path / "whole", *options, ranks=ranks))
    killed, met = train_while_being_killed(objective, tmp_path / "killed", *options, ranks=ranks, kills=3, seed=ranks)
    assert met == 3
    assert_identical(whole, weights(killed))


class WeightDecays(TrainerCallback):
    """What the optimiser had at each step, and the norms of the gradients that it was given."""

    def __init__(self) -> None:
        self.decays: list[list[float]] = []
        self.norms: list[float] = []

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:  # type: ignore[no-untyped-def]
        self.decays.append([group["weight_decay"] for group in kwargs["optimizer"].param_groups])
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        self.norms.append(max(float(gradient.norm()) for gradient in gradients))


def dino_trainer(output: Path, steps: int = 6) -> tuple[SSLTrainer, WeightDecays]:
    model, batch = TINY["dino"]()
    args = SSLTrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=8,
        max_steps=steps,
        learning_rate=1e-3,
        final_learning_rate_scale=0.1,
        warmup_steps=0,
        weight_decay=0.04,
        final_weight_decay=0.4,
        max_grad_norm=0.0,
        max_parameter_grad_norm=0.02,
        save_steps=3,
        logging_steps=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    watch = WeightDecays()
    dataset = KeyedDataset(Rows(batch, 16))
    return SSLTrainer(model, args, dataset, NoisyCollator(noise=0.1), callbacks=[watch]), watch


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e9])
def test_each_gradient_is_clipped_after_the_scale_of_fp16_is_taken_off(tmp_path: Path, max_grad_norm: float) -> None:
    """Clipped with its scale, the gradient would then be divided by it."""
    model, batch = TINY["dino"]()
    args = SSLTrainingArguments(
        output_dir=str(tmp_path), max_parameter_grad_norm=0.02, max_grad_norm=max_grad_norm, fp16=True, use_cpu=True
    )
    Accelerator(cpu=True)  # an accelerated optimiser needs one
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = AcceleratedOptimizer(torch.optim.SGD(model.parameters()), scaler=scaler)
    scaler.scale(model(**batch).loss).backward()
    if max_grad_norm > 0:  # as the trainer does before it calls the callbacks
        scaler.unscale_(optimizer.optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    state = TrainerState(max_steps=10, global_step=5)
    OptimizerSteps().on_pre_optimizer_step(args, state, TrainerControl(), model=model, optimizer=optimizer)
    scale = 1.0 if max_grad_norm > 0 else 1024.0
    norms = {name: gradient.norm().item() / scale for name, gradient in before.items()}
    assert max(norms.values()) > 0.02
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert p.grad.norm().item() == pytest.approx(min(norms[name], 0.02), rel=1e-3, abs=1e-6)


def test_weight_decay_rises_gradients_are_clipped_and_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    """DINO's training: besides these, its centre, its temperature and its teacher are state."""
    trainer, watch = dino_trainer(tmp_path)
    trainer.train()
    expected = [0.04 + 0.36 * (1 - math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert [decays[0] for decays in watch.decays] == pytest.approx(expected)
    assert [decays[1] for decays in watch.decays] == [0.0] * 6
    assert watch.norms == pytest.approx([0.02] * 6, rel=1e-3)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[-1] == pytest.approx(1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * 5 / 6)) / 2))
    resumed, after = dino_trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert after.decays == watch.decays[3:]
    assert_identical(trainer.model.state_dict(), resumed.model.state_dict())

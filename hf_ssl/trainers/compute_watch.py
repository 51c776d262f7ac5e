"""What a training costs: the seconds of its loop, and the images that its encoders read."""

from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ssl.evaluation.features import frozen

SECONDS, PASSES = "training_seconds", "encoder_passes"


class ComputeWatch(TrainerCallback):
    """Adds to each entry of the log what the training has cost until then.

    `training_seconds` are those of the training loop: loading, augmentation and what is done between epochs included,
    evaluations, checkpoints and logging left out. `encoder_passes` are forward passes of whole images through the
    encoder or a teacher's; a small view, or an image of which only some patches are encoded, counts for its share of a
    whole image's positions. A training that is resumed goes on from the values in its checkpoint's log.

    It has to be the last of the callbacks: what the others do in an evaluation is no training.

    Args:
        image_size (`int`): side of a whole image in pixels.
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.seconds = self.passes = 0.0
        self.step_seconds: list[float] = []
        self.epoch_seconds: list[float] = []
        """Between epochs, and before the first."""
        self.steps_an_epoch = 0
        self._mark = self._pending = 0.0
        self._hooks: list[Any] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: D102
        encoder = kwargs["model"].encoder
        before: dict[str, float] = next((entry for entry in reversed(state.log_history) if SECONDS in entry), {})
        self.seconds, self.passes = before.get(SECONDS, 0.0), before.get(PASSES, 0.0)
        whole = num_positions_of_a_whole_image(encoder, self.image_size)
        # A teacher's encoder is of the same class as the student's.
        encoders = [module for module in kwargs["model"].modules() if type(module) is type(encoder)]
        self._hooks = [module.register_forward_hook(partial(self._count, whole)) for module in encoders]
        self._discard()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: D102
        for hook in self._hooks:
            hook.remove()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.steps_an_epoch = len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps
        self.epoch_seconds.append(self._advance())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.step_seconds.append(self._advance())

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: D102
        # The trainer has put the entry there already, so that what is added to `logs` would be lost.
        state.log_history[-1] |= {SECONDS: self.seconds, PASSES: self.passes}
        self._discard()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self._discard()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: D102
        self._discard()

    def _count(self, whole: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self._pending += num_positions(output[0]) / whole

    def _advance(self) -> float:
        """Take the time and the passes since the mark for training; the seconds."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the device may be behind
        seconds = perf_counter() - self._mark
        self.seconds, self.passes = self.seconds + seconds, self.passes + self._pending
        self._discard()
        return seconds

    def _discard(self) -> None:
        self._mark, self._pending = perf_counter(), 0.0


def num_positions_of_a_whole_image(encoder: PreTrainedModel, side: int) -> int:
    """How many positions an encoder makes of a square image of `side` pixels."""
    with frozen(encoder):
        if encoder.main_input_name == "input_ids":  # a pixel is a token
            image = {"input_ids": torch.zeros(1, side * side, dtype=torch.int64, device=encoder.device)}
        else:
            image = {"pixel_values": torch.zeros(1, encoder.config.num_channels, side, side, device=encoder.device)}
        return num_positions(encoder(**image)[0])


def num_positions(hidden: Tensor) -> int:
    """Of all images of hidden states (B, T, D) or (B, D, H, W)."""
    return hidden.shape[0] * (hidden.shape[1] if hidden.dim() == 3 else hidden.shape[2] * hidden.shape[3])

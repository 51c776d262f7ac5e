"""Training a model with exits: by one stage or two, with labels or by what the last exit says."""

# B rows, T words or frames, C classes, E exits

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction
from transformers.utils import ModelOutput

from hf_ssl.data.prepared import Batch
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.early_exit.base import EarlyExitModel
from hf_ssl.trainers.adalora import AdaLoraBudget
from hf_ssl.trainers.checkpointing import checkpoint_to_resume
from hf_ssl.trainers.exit_arguments import SCHEMES, Stage
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.scoring import make_scorer
from hf_ssl.trainers.task_data import TaskData
from hf_ssl.trainers.task_model import AdaptedModel, encoder_of

BACKBONE_FOLDER = "backbone"
"""Folder in the output folder for the checkpoints of the first of two stages."""

OF_ONE_EXIT = ["exit_errors", "exit_layer", "hidden_states", "attentions"]
"""What of a model's output is not asked for to score every exit."""


def train_exits(
    model: EarlyExitModel | AdaptedModel, training: FineTuningArguments, task: str, data: TaskData, resume: bool
) -> "ExitTrainer":
    """Train a model with exits by the scheme of `training.exit_scheme`.

    Of two stages, the first keeps its checkpoints in [`BACKBONE_FOLDER`]; those of the second, in the output folder,
    hold all that the first has learned. The best checkpoint of the second is that of the least loss.

    Args:
        model ([`EarlyExitModel`] or [`AdaptedModel`]): is trained in place.
        training ([`FineTuningArguments`]): of each stage.
        task (`str`): its name.
        data ([`TaskData`]): the splits and their batches.
        resume (`bool`): continue from the last checkpoint of the stage that was reached.

    Returns:
        [`ExitTrainer`]: of the last stage, which scores every exit.
    """
    output = Path(training.output_dir)
    *earlier, last = SCHEMES[training.exit_scheme or "joint"]
    checkpoint = checkpoint_to_resume(output, resume)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for stage in earlier if checkpoint is None else []:
        folder = output / BACKBONE_FOLDER
        arguments = replace(training, output_dir=str(folder), run_name=None, exit_learning_rate=None)
        trainer = ExitTrainer(model, arguments, task, data, stage, trained)
        trainer.train(resume_from_checkpoint=checkpoint_to_resume(folder, resume))
    changes: dict[str, Any] = {}
    if training.exit_learning_rate is not None:
        changes["learning_rate"] = training.exit_learning_rate
    if last.trains == "exits" and training.load_best_model_at_end:
        # The metrics are those of the last exit, which is frozen by now: they are as good at every checkpoint.
        changes |= {"metric_for_best_model": "loss", "greater_is_better": False}
    if changes:
        training = replace(training, **changes)
    trainer = ExitTrainer(model, training, task, data, last, trained)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


class ExitTrainer(FineTuningTrainer):
    """Trains one stage, and scores every exit.

    Args:
        model ([`EarlyExitModel`] or [`AdaptedModel`]): with exits.
        args ([`FineTuningArguments`]): of the stage.
        task (`str`): its name.
        data ([`TaskData`]): the splits and their batches.
        stage ([`Stage`]): what learns from what.
        trained (`Sequence[nn.Parameter]`): those that learn in any stage; an adapter's encoder is not among them.
    """

    def __init__(
        self,
        model: EarlyExitModel | AdaptedModel,
        args: FineTuningArguments,
        task: str,
        data: TaskData,
        stage: Stage,
        trained: Sequence[nn.Parameter],
    ) -> None:
        self.exit_model: EarlyExitModel = model.get_base_model() if isinstance(model, AdaptedModel) else model
        self.stage = stage
        early = {id(parameter) for module in self.early_modules() for parameter in module.parameters()}
        for parameter in trained:
            parameter.requires_grad = stage.trains == "all" or (id(parameter) in early) == (stage.trains == "exits")
        super().__init__(model, args, task, data)
        self.score_exit = make_scorer(data.metrics, data.processor)
        self.compute_metrics = self.score_exits
        if stage.trains == "exits":
            self.remove_callback(AdaLoraBudget)  # ranks are settled, and have no gradient any more

    def early_modules(self) -> list[nn.Module]:
        """What a frozen backbone leaves to learn: all exits but the last, and what predicts whether they are wrong."""
        exits, wrongness = [*self.exit_model.exits][:-1], self.exit_model.wrongness
        return exits if wrongness is None else [*exits, wrongness]

    def task_loss(self, model: nn.Module, inputs: Batch) -> tuple[Tensor, ModelOutput]:
        """The weighted mean of the exits' losses, or how far they are from the last one; and what is learned of their
        wrongness, unless that is for a later stage.
        """
        config, weights = self.exit_model.config, self.stage.weights
        config.exit_weights = weights[self.state.global_step % len(weights) if model.training else -1]
        loss, outputs = super().task_loss(model, inputs)
        config.exit_weights = weights[-1]
        if self.stage.distils:
            loss = loss - self._loss_of_last(outputs, inputs) + self._divergence(outputs, inputs)
        elif self.stage.trains == "backbone" and self.exit_model.wrongness is not None:
            loss = self._loss_of_last(outputs, inputs)
        return loss, outputs

    def _loss_of_last(self, outputs: ModelOutput, inputs: Batch) -> Tensor:
        return self.exit_model.exit_loss(outputs.exit_logits[-1], inputs["labels"], inputs)

    def _divergence(self, outputs: ModelOutput, inputs: Batch) -> Tensor:
        """[`self_distillation`], as a mean over labels; of CTC as the sum over all frames."""
        if self.is_ctc:
            return self_distillation(outputs.exit_logits, self.exit_model.mask_of(outputs.logits, inputs))
        counts = inputs["labels"] != IGNORED
        return self_distillation(outputs.exit_logits, counts) / counts.sum()

    def _encoder_in_training(self, inputs: Batch) -> ExitStack:
        """What is frozen for the whole stage computes as in inference, without dropout."""
        if self.stage.trains == "exits":
            encoder_of(self.model).eval()
            self.exit_model.exits[-1].eval()
        return super()._encoder_in_training(inputs)

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss, the most probable class of each item, word or frame at every exit, (B, E) or (B, T, E), and the
        true ones.
        """
        return super().prediction_step(model, inputs, prediction_loss_only, OF_ONE_EXIT)

    def classes(self, logits: Tensor | tuple[Tensor, ...]) -> Tensor:
        """See [`prediction_step`]."""
        _, exit_logits = logits
        return torch.stack([scores.argmax(-1) for scores in exit_logits], dim=-1)

    def score_exits(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of the last exit under their names, and those of each exit as `layer_N_<name>`."""
        scores: dict[str, float] = {}
        for place, layer in enumerate(self.exit_model.exit_layers):
            of_exit = self.score_exit(EvalPrediction(prediction.predictions[..., place], prediction.label_ids))
            scores |= {f"layer_{layer}_{name}": value for name, value in of_exit.items()}
        return scores | of_exit

    def scores_by_layer(self, values: dict[str, float], prefix: str) -> dict[str, dict[str, float]]:
        """What an evaluation under a prefix found of each exit: by its layer, then by metric."""
        return {
            str(layer): {name: values[f"{prefix}_layer_{layer}_{name}"] for name in self.data.metrics}
            for layer in self.exit_model.exit_layers
        }


def self_distillation(exit_logits: Sequence[Tensor], positions: Tensor | None) -> Tensor:
    """How far the exits are from the last one: FastBERT's Σ_i D(p_i ‖ p_E) (arXiv:2004.02178, section 3.2).

    Summed over items (words, frames) and averaged over the exits before the last; no gradient reaches that.

    Args:
        exit_logits (`Sequence[Tensor]`): of all exits, (B, C) or (B, T, C).
        positions (`Tensor` of shape `(B,)` or `(B, T)`, *optional*): which items, words or frames count.

    Returns:
        scalar `Tensor`, in nats.
    """
    *students, teacher = [logits.float().log_softmax(dim=-1) for logits in exit_logits]
    teacher = teacher.detach()
    divergences = torch.stack([(student.exp() * (student - teacher)).sum(dim=-1) for student in students])
    if positions is not None:
        divergences = divergences * positions
    return divergences.sum() / len(students)

"""The trainer of every objective."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.data.prepared import Batch, Collator
from hf_ssl.evaluation import collapse
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pretrained import Processor, SSLPreTrainedModel
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.cached_gradients import cached_gradients, check_gradients_can_be_cached
from hf_ssl.trainers.collapse_watch import CollapseWatch
from hf_ssl.trainers.epoch_start import EpochStart
from hf_ssl.trainers.optimizers import clip_each_gradient, make_optimizer, set_weight_decay
from hf_ssl.trainers.reproducible import ReproducibleTrainer
from hf_ssl.trainers.schedules import cosine


class OptimizerSteps(TrainerCallback):
    """What happens once per optimiser step.

    Before it the weight decay moves and each gradient is clipped, where the arguments say so, and the objective may
    change the gradient; after it the objective updates what moves once per step: a teacher, a queue, a centre.
    """

    def on_pre_optimizer_step(  # noqa: D102 - the trainer's event
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert isinstance(args, SSLTrainingArguments)
        model = kwargs["model"]
        if args.final_weight_decay is not None:
            final_scale = args.final_weight_decay / args.weight_decay
            factor = cosine(state.global_step, warmup=0, total=state.max_steps, final_scale=final_scale)
            set_weight_decay(kwargs["optimizer"], args.weight_decay * factor)
        if args.max_parameter_grad_norm is not None:
            if args.fp16 and args.max_grad_norm == 0:  # else the trainer has clipped them together, and unscaled them
                kwargs["optimizer"].scaler.unscale_(kwargs["optimizer"].optimizer)
            clip_each_gradient(model.parameters(), args.max_parameter_grad_norm)
        model.before_optimizer_step(state.global_step / state.max_steps)

    def on_step_end(  # noqa: D102 - the trainer's event
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["model"].after_optimizer_step(state.global_step / state.max_steps)


class SSLTrainer(ReproducibleTrainer):
    """Trains any objective.

    What it adds to `transformers.Trainer`: the gradient of an optimiser step does not depend on how its batch was cut
    into micro-batches or ranks; batches are known by (seed, epoch); checkpoints are atomic; the terms of the loss and
    collapse diagnostics are logged.

    Args:
        model ([`SSLPreTrainedModel`]): the objective.
        args ([`SSLTrainingArguments`]): the `training` section.
        train_dataset ([`KeyedDataset`] or [`KeyedIterableDataset`]): items with their keys.
        data_collator ([`Collator`]): items to batch, with the objective's draw.
        eval_dataset ([`KeyedDataset`], *optional*): for the validation loss.
        processing_class ([`Processor`], *optional*): saved with each checkpoint.
        lengths (`list[float]`, *optional*): of the training items, for batches of like length.
        repeats (`Sequence[float]`, *optional*): how often each training item comes in an epoch, by default once.
        batch_transform (`Callable`, *optional*): part of the collation that runs on the device, without gradient.
        plain_collator (`Callable`, *optional*): items to what the encoder reads, with nothing drawn at random: for
            objectives that look so at all items between epochs.
        callbacks (`list[TrainerCallback]`, *optional*): further callbacks.
    """

    args: SSLTrainingArguments
    model: SSLPreTrainedModel
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: SSLPreTrainedModel,
        args: SSLTrainingArguments,
        train_dataset: KeyedDataset | KeyedIterableDataset | None,
        data_collator: Collator,
        eval_dataset: KeyedDataset | None = None,
        processing_class: Processor | None = None,
        lengths: list[float] | None = None,
        repeats: Sequence[float] | None = None,
        batch_transform: Callable[[Batch], Batch] | None = None,
        plain_collator: Callable[[list[dict[str, Any]]], Batch] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        self.lengths, self.repeats = lengths, repeats
        self.batch_transform, self.plain_collator = batch_transform, plain_collator
        self.encoding: Callable[[], AbstractContextManager] = nullcontext
        if args.cache_chunk_size is not None:
            check_gradients_can_be_cached(model)
            self.encoding = partial(cached_gradients, model, args.cache_chunk_size)
        # First of all callbacks: what evaluates or saves at the end of a step sees the step finished.
        self.callback_handler.callbacks.insert(0, OptimizerSteps())
        if model.needs_item_indices:
            self.add_callback(EpochStart(self))
        self.add_callback(CollapseWatch(args.stop_below or {}, args.stop_after_steps))
        self._term_sums: dict[str, Tensor] = {}
        self._diagnostics: dict[str, Tensor] = {}
        self._step_of_first_sum = 0

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this rank; a stream is read as it comes."""
        if isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        return self.epoch_data_loader(
            self.train_dataset,
            self.data_collator,
            batch_size=self._train_batch_size,
            lengths=self.lengths,
            repeats=self.repeats,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """See [`make_optimizer`]."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(model or self.model, self.args, constant=self.model.constant_learning_rate)
        return self.optimizer

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> dict[str, Tensor] | None:
        """The divisor of each loss term: its predictions in all micro-batches of all ranks of this optimiser step."""
        counts = [self.model.count_predictions(batch) for batch in batch_samples]
        if not counts or not counts[0]:
            return None
        names = list(counts[0])
        totals = torch.stack([torch.stack([count[name] for count in counts]).sum() for name in names]).to(device)
        totals = self.accelerator.reduce(totals, "sum").clamp(min=1)
        return dict(zip(names, totals, strict=True))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: dict[str, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, SSLOutput]:
        """The share of this micro-batch in the loss of the optimiser step.

        A loss that counts its predictions was divided by the count over all ranks, while DDP averages gradients over
        ranks: hence times the number of ranks. A loss over a batch of samples is a mean over micro-batches.
        """
        if self.batch_transform is not None:
            with torch.no_grad():
                inputs = self.batch_transform(inputs)
        with self.encoding():
            output: SSLOutput = model(**inputs, num_items_in_batch=num_items_in_batch)
        assert output.loss is not None
        scale = 1.0
        if model.training:
            scale = (
                self.accelerator.num_processes if num_items_in_batch else 1 / self.current_gradient_accumulation_steps
            )
            self._record(output, scale)
        loss = output.loss * scale
        return (loss, output) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """Only the loss: an objective's predictions have no metric of their own.

        It is the mean over this batch. The trainer averages batches by their rows, so `eval_loss` depends a little on
        how the items are cut into batches.
        """
        inputs = self._prepare_inputs(inputs)
        inputs.pop("item_indices", None)  # what an objective keeps is of training items, which are numbered apart
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None  # type: ignore[union-attr]

    def _record(self, output: SSLOutput, scale: float) -> None:
        """Add up the loss terms on the device; take the diagnostics of the step that is about to be logged."""
        if not self._term_sums:
            self._step_of_first_sum = self.state.global_step
        for name, term in (output.loss_terms or {}).items():
            self._term_sums[name] = self._term_sums.get(name, 0) + term * scale
        if (self.state.global_step + 1) % self.state.logging_steps == 0:
            self._diagnostics = diagnostics(output)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss terms since the last log, over all ranks, and the diagnostics."""
        if "loss" in logs and self._term_sums:
            steps = self.state.global_step - self._step_of_first_sum
            means: dict[str, Tensor] = {f"loss_{name}": total / steps for name, total in self._term_sums.items()}
            means |= self._diagnostics
            values = self.accelerator.reduce(torch.stack([value.float() for value in means.values()]), "mean")
            logs = {**logs, **dict(zip(means, values.tolist(), strict=True))}
            self._term_sums, self._diagnostics = {}, {}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not estimated: the trainer's formula counts tokens, which images and waveforms do not have."""
        return 0


def diagnostics(output: SSLOutput) -> dict[str, Tensor]:
    """What tells a collapse early, from one batch of one rank; see [`hf_ssl.evaluation.collapse`]."""
    values: dict[str, Tensor] = {}
    if output.features is not None:
        values["feature_std"] = collapse.feature_std(output.features)
        values["effective_rank"] = collapse.effective_rank(output.features)
    if output.logits is not None and output.targets is not None:
        values["accuracy"] = collapse.accuracy(output.logits, output.targets)
        values["prediction_perplexity"] = collapse.prediction_perplexity(output.logits, output.targets)
    return values | (output.diagnostics or {})

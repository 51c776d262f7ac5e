"""The trainer of every task."""

from contextlib import ExitStack

import torch
import torch.nn.functional as F
from peft import AdaLoraModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hf_ssl.data.image_mixing import mix_images, mix_labels
from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.data.labelled import reads_padding
from hf_ssl.data.prepared import Batch
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.front_end import frames_of_inputs
from hf_ssl.modeling.blocks.gradient import without_gradient
from hf_ssl.modeling.blocks.waveform import masked_channels, masked_frames
from hf_ssl.trainers.adalora import AdaLoraBudget
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments
from hf_ssl.trainers.layer_decay import decays, learning_rate_scales, scale_learning_rates
from hf_ssl.trainers.reproducible import ReproducibleTrainer
from hf_ssl.trainers.scoring import make_scorer
from hf_ssl.trainers.task_data import TaskData
from hf_ssl.trainers.task_model import AdaptedModel, encoder_of

MASKS = {"mask_time_indices": masked_frames, "mask_channel_indices": masked_channels}
"""How the masks of a batch come into the encoder, in this order: channels are masked in masked frames, too."""


class FineTuningTrainer(ReproducibleTrainer):
    """Trains a model with labels and scores it.

    What it adds to `transformers.Trainer`: the gradient of an optimiser step does not depend on how its batch was cut
    into micro-batches or ranks; recordings are batched by their lengths; SpecAugment; images are mixed; labels are
    smoothed in training only; layer-wise learning rates; an encoder that is frozen for the first steps; checkpoints
    are atomic; predictions are classes, without those of padding. An image is mixed with one of its micro-batch, so
    where there is mixing the first holds no more than it does of dropout. Encoders of speech that
    take no mask (with group norm: wav2vec2-base, hubert-base) read the zeros that pad a batch: for them the first
    holds for recordings of one length only, and they are evaluated one recording at a time.

    Args:
        model (`PreTrainedModel` or [`AdaptedModel`]): with the task's head.
        args ([`FineTuningArguments`]): the `training` section.
        task (`str`): its name.
        data ([`TaskData`]): the splits and their batches.
    """

    args: FineTuningArguments
    model: PreTrainedModel | AdaptedModel
    loss_is_scaled_for_ga = True

    def __init__(
        self, model: PreTrainedModel | AdaptedModel, args: FineTuningArguments, task: str, data: TaskData
    ) -> None:
        if reads_padding(data.processor):
            args.per_device_eval_batch_size = 1
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.splits["train"],
            eval_dataset=data.splits.get("validation"),
            data_collator=data.collator,
            processing_class=data.processor,
            compute_metrics=make_scorer(data.metrics, data.processor),
        )
        self.data = data
        self.is_ctc = task == "ctc"
        if isinstance(model, AdaptedModel) and isinstance(model.base_model, AdaLoraModel):
            self.add_callback(AdaLoraBudget(model.base_model))
        self.label_smoother = None  # it would also smooth the loss of evaluation
        # Only for a model that is said to take it does the trainer count the labels of an optimiser step.
        self.model_accepts_loss_kwargs = True

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The optimiser of `training.optim`, with smaller steps the nearer a layer is to the input."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.layer_decay < 1:
            scales = learning_rate_scales(self.model, encoder_of(self.model), self.args.layer_decay)
            scale_learning_rates(optimizer, scales)
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Those that may have weight decay: see [`decays`]; by their names, biases and normalisations have none."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        return [name for name in super().get_decay_parameter_names(model) if decays(name, parameters[name])]

    def get_train_dataloader(self) -> DataLoader:
        """Batches of recordings of like length, with the masks of SpecAugment, and of images with what is random of
        them; of other data as `Trainer` has them.
        """
        if self.data.lengths is None and self.args.max_batch_length is not None:
            raise InputError("training.max_batch_length is for recordings; leave it out.")
        if self.data.lengths is None and self.data.augment is None:
            return super().get_train_dataloader()
        collator = self.data.collator
        if self.data.augment is not None:
            collator = self.data.augment(inputs=collator, seed=self.data_seed)
        # Of a small set, a batch takes what there is.
        shares = self.args.world_size * self.args.gradient_accumulation_steps
        return self.epoch_data_loader(
            KeyedDataset(self.train_dataset),
            collator,
            batch_size=max(1, min(self._train_batch_size, len(self.train_dataset) // shares)),
            lengths=self.data.lengths,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The share of this micro-batch in the mean over the labels of the optimiser step.

        A label is a class or, for CTC, a character or phone: its loss is the sum over recordings divided by their
        units. fairseq divides by the recordings. The direction of the step is the same, and so is Adam's step but for
        what batches vary in; but a bound on the gradient's norm means the same for words and for long sentences.
        """
        count = (inputs["labels"] != IGNORED).sum()
        with self._encoder_in_training(inputs):
            loss, outputs = self.task_loss(model, inputs)
        total = loss if self.is_ctc else loss * count
        if num_items_in_batch is None:
            loss = total / count
        else:
            # The count is over all ranks, while their gradients are averaged.
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def task_loss(self, model: nn.Module, inputs: Batch) -> tuple[Tensor, ModelOutput]:
        """The model's own loss: the mean over the labels of the micro-batch; of CTC the sum over its recordings.

        Where images are mixed or labels smoothed: in training, the cross entropy with such targets.
        """
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        if smoothing == 0 and "mixing_weights" not in inputs:
            return super().compute_loss(model, inputs, return_outputs=True)
        inputs = dict(inputs)
        targets = inputs.pop("labels")
        if "mixing_weights" in inputs:
            mixing = inputs.pop("mixing_weights"), inputs.pop("mixing_boxes")
            inputs["pixel_values"], shares = mix_images(inputs["pixel_values"], *mixing)
            targets = mix_labels(targets, shares, encoder_of(self.model).config.num_labels)
        outputs = model(**inputs)
        # Mixed targets are (B, K), others (B,) or (B, T).
        logits = outputs.logits.float().flatten(end_dim=-2)
        targets = targets if targets.is_floating_point() else targets.flatten()
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing), outputs

    def _encoder_in_training(self, inputs: Batch) -> ExitStack:
        """The encoder with this batch's masks, which are taken out of it, and without gradient while it is frozen."""
        encoder, changes = encoder_of(self.model), ExitStack()
        for name, masked in MASKS.items():
            if name in inputs:
                changes.enter_context(masked(encoder, inputs.pop(name)))
        if self.model.training and self.state.global_step < self.args.freeze_encoder_steps:
            changes.enter_context(without_gradient(encoder))
        return changes

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss, the most probable class of each item, word or frame, and the true ones."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only:
            return loss, None, None
        predictions = self.classes(logits)
        if self.is_ctc and "attention_mask" in inputs:
            lengths = frames_of_inputs(encoder_of(self.model).config, inputs["attention_mask"].sum(dim=1))
            frames = torch.arange(predictions.shape[1], device=predictions.device)
            is_padding = (frames >= lengths[:, None]).view(*predictions.shape[:2], *(1,) * (predictions.dim() - 2))
            predictions = predictions.masked_fill(is_padding, IGNORED)
        return loss, predictions, labels

    def classes(self, logits: Tensor | tuple[Tensor, ...]) -> Tensor:
        """The most probable class of each item (B,), word or frame (B, T), of what the model gives."""
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)

"""How good the features are while they are being learned: kNN and a linear probe at every evaluation."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.errors import unknown_name
from hf_ssl.evaluation.classifier import Method
from hf_ssl.evaluation.features import extract_features, feature_loader
from hf_ssl.evaluation.knn import fit_knn
from hf_ssl.evaluation.probes import fit_linear_probe
from hf_ssl.evaluation.splits import labelled_splits
from hf_ssl.modeling.blocks.pretrained import Processor

LINEAR_C = 0.1
"""The linear probe's penalty is fixed: the validation items measure, so they may not also choose."""

METHODS: dict[str, tuple[str, Method]] = {
    "knn": ("eval_knn_accuracy", fit_knn),
    "linear": ("eval_probe_accuracy", partial(fit_linear_probe, grid=(LINEAR_C,))),
}
"""Name of the metric and what fits the classifier, by method."""

ONLINE_PROBE = "online_probe"
"""What the last accuracies stand under in metrics.json, apart from what is measured offline of the finished encoder.
"""


class OnlineProbe(TrainerCallback):
    """Online probe: measures the encoder's output on a small labelled subset after each evaluation of the trainer.

    It tells how a training goes. How good the finished encoder is tells `hf-ssl evaluate` (offline, on all items and
    on the test split), and the two are not to be compared: items, split and penalty are others.

    The accuracy on validation items goes into the log and into the metrics that `metric_for_best_model` chooses by.
    The training does not notice: the modes of all modules and the random number generators stay as they were, and no
    weight is touched. Of several ranks the first computes, the others wait for its result.

    Args:
        trainer (`Trainer`): whose `model.encoder` is measured and into whose log the result goes; add the callback to
            it with `add_callback`.
        train (`Dataset`): items of the modality's column and `label`, that the classifiers are fitted on.
        validation (`Dataset`): items that measure them.
        collator ([`LabelledCollator`]): items to inputs of the encoder.
        methods (`Sequence[str]`): `"knn"` (`eval_knn_accuracy`) and `"linear"` (`eval_probe_accuracy`).
        pooling (`str`): `"mean"` or `"cls"`.
        max_train_items (`int`): at most so many, drawn once.
        max_validation_items (`int`): at most so many, drawn once.
        batch_size (`int`): items at once.
    """

    def __init__(
        self,
        trainer: Trainer,
        train: Dataset,
        validation: Dataset,
        collator: LabelledCollator,
        *,
        methods: Sequence[str] = ("knn",),
        pooling: str = "mean",
        max_train_items: int = 1024,
        max_validation_items: int = 512,
        batch_size: int = 32,
    ) -> None:
        for method in methods:
            if method not in METHODS:
                raise unknown_name("method of online evaluation", method, METHODS)
        self.trainer, self.methods, self.pooling = trainer, methods, pooling
        self.splits = {
            "train": _subset(train, max_train_items),
            "validation": _subset(validation, max_validation_items),
        }
        self.loaders = {
            name: feature_loader(dataset, collator, batch_size=batch_size) for name, dataset in self.splits.items()
        }

    def on_evaluate(  # noqa: D102 - the trainer's event
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        values = [self.measure() if args.process_index == 0 else None]
        broadcast_object_list(values)  # also makes the other ranks wait
        assert values[0] is not None
        metrics.update(values[0])
        self.trainer.log(values[0])

    def measure(self) -> dict[str, float]:
        """The accuracies on the validation items, by metric."""
        encoder = self.trainer.model.exported_encoder
        devices = [encoder.device] if encoder.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # an encoder may draw even in evaluation
            extracted = {
                name: extract_features(encoder, loader, pooling=self.pooling, description=f"online probe, {name}")
                for name, loader in self.loaders.items()
            }
        (train, train_labels), (validation, validation_labels) = (
            (next(iter(features.values())).numpy(), labels.numpy()) for features, labels in extracted.values()
        )
        metrics = {}
        for method in self.methods:
            name, fit = METHODS[method]
            metrics[name] = fit(train, train_labels, validation, validation_labels).validation_accuracy
        return metrics


def set_apart(metrics: dict[str, float], trainer: Trainer) -> dict[str, Any]:
    """A run's metrics with those of its [`OnlineProbe`], if it had one, and its items under [`ONLINE_PROBE`]."""
    probes = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, OnlineProbe)]
    names = [name for name, _ in METHODS.values() if name in metrics]
    others = {name: value for name, value in metrics.items() if name not in names}
    if not probes or not names:
        return others
    items = {"num_labelled": len(probes[0].splits["train"]), "num_validation": len(probes[0].splits["validation"])}
    return {**others, ONLINE_PROBE: {**{name.removeprefix("eval_"): metrics[name] for name in names}, **items}}


def online_probe(
    trainer: Trainer, data: DataArguments, modality: str, processor: Processor, **settings: Any
) -> OnlineProbe:
    """An [`OnlineProbe`] on the labelled data that a run's `data` section describes.

    Args:
        trainer (`Trainer`): see [`OnlineProbe`].
        data ([`DataArguments`]): with a `label_column`.
        modality (`str`): of the encoder.
        processor ([`Processor`]): of the encoder.
        settings: further arguments of [`OnlineProbe`].

    Raises:
        InputError: for data without usable labels.
    """
    splits = labelled_splits(data, modality)
    collator = LabelledCollator(modality=modality, processor=processor)
    return OnlineProbe(trainer, splits["train"], splits["validation"], collator, **settings)


def _subset(dataset: Dataset, max_items: int) -> Dataset:
    return dataset.shuffle(seed=0).select(range(min(max_items, len(dataset))))

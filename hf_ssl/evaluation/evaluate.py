"""A frozen encoder beside an untrained one and beside raw features, on one split."""

import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
from datasets import DatasetDict
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.evaluation.baselines import Features, raw_features
from hf_ssl.evaluation.classifier import Method
from hf_ssl.evaluation.encoders import at_its_rate, load_encoder, modality_of, random_encoder
from hf_ssl.evaluation.features import extract_features, feature_loader
from hf_ssl.evaluation.knn import fit_knn
from hf_ssl.evaluation.probes import fit_linear_probe, fit_sparse_probe
from hf_ssl.evaluation.result import EvaluationResult, Measurement, Row
from hf_ssl.evaluation.scores import bootstrap_intervals, classification_scores
from hf_ssl.evaluation.splits import labelled_splits
from hf_ssl.modeling.blocks.pooling import check_class_token
from hf_ssl.modeling.blocks.pretrained import Processor

SEEDS = (0, 1, 2)
"""Of the untrained encoders."""

SPLITS = ("train", "validation", "test")


Layers: TypeAlias = dict[int | None, dict[str, Features]]  # features by layer (None: raw), then by split

METHODS: dict[str, Method] = {"linear probe": fit_linear_probe, "kNN": fit_knn}
# TF-IDF has one method: cosines of sparse rows share too few words for neighbours to mean much.
TFIDF_METHODS: dict[str, Method] = {"linear probe": fit_sparse_probe}


def evaluate_encoder(
    encoder: str | Path | PreTrainedModel,
    data: DataArguments,
    *,
    processor: Processor | None = None,
    layers: str | Sequence[int] = "last",
    pooling: str = "mean",
    seeds: Sequence[int] = SEEDS,
    batch_size: int = 32,
    num_workers: int = 0,
) -> EvaluationResult:
    """Linear probe and weighted kNN on frozen features, always beside untrained encoders and raw features.

    Whatever is chosen (the penalty of a probe, the layer where there are several) is chosen by accuracy on the
    validation items, for each encoder and method on its own; the test items are predicted once.

    Args:
        encoder (`str`, `Path` or `PreTrainedModel`): a saved encoder, or one in memory, used where it is.
        data ([`DataArguments`]): of the encoder's modality, with a `label_column`.
        processor ([`Processor`], *optional*): the preprocessor of an encoder in memory.
        layers (`str` or `Sequence[int]`): `"last"`, `"all"`, or numbers; see [`extract_features`].
        pooling (`str`): `"mean"`, or `"cls"` for encoders with a class token.
        seeds (`Sequence[int]`): of the untrained encoders; at least two give a spread.
        batch_size (`int`): items at once.
        num_workers (`int`): processes that decode and preprocess.

    Raises:
        InputError: for an encoder, data or settings that cannot be used.
    """
    name = str(encoder) if isinstance(encoder, (str, Path)) else type(encoder).__name__
    if isinstance(encoder, (str, Path)):
        encoder, processor = load_encoder(encoder)
    assert processor is not None, "an encoder in memory comes with its processor"
    modality = modality_of(encoder)
    if pooling == "cls":
        check_class_token(encoder)
    splits = labelled_splits(at_its_rate(data, processor), modality)
    labels = {split: np.asarray(splits[split]["label"], dtype=np.int64) for split in SPLITS}
    collator = LabelledCollator(modality=modality, processor=processor)
    loaders = {
        split: feature_loader(splits[split], collator, batch_size=batch_size, num_workers=num_workers)
        for split in SPLITS
    }
    measured = partial(measure_encoder, loaders=loaders, labels=labels, layers=layers, pooling=pooling)
    own = measured(encoder, title="encoder")
    untrained = [measured(random_encoder(encoder, seed), title=f"untrained, seed {seed}") for seed in seeds]
    return EvaluationResult(
        encoder=name,
        data=data.path,
        label=str(data.label_column),
        modality=modality,
        pooling=pooling,
        num_items={split: len(labels[split]) for split in SPLITS},
        num_classes=splits["train"].features["label"].num_classes,
        rows=[
            *_rows("encoder", [own]),
            *_rows("random initialisation", untrained, seeds),
            *_raw_rows(modality, splits, labels),
        ],
        versions=versions(),
    )


def measure_encoder(
    encoder: PreTrainedModel,
    *,
    loaders: dict[str, DataLoader],
    labels: dict[str, np.ndarray],
    layers: str | Sequence[int],
    pooling: str,
    title: str,
) -> dict[str, Measurement]:
    """Every method on one encoder's features, by method.

    Args:
        encoder (`PreTrainedModel`): is frozen.
        loaders (`dict[str, DataLoader]`): the items of each split; see [`feature_loader`].
        labels (`dict[str, np.ndarray]`): their classes.
        layers (`str` or `Sequence[int]`): see [`extract_features`].
        pooling (`str`): see [`extract_features`].
        title (`str`): of the progress bars.
    """
    features: Layers = {}
    for split, loader in loaders.items():
        pooled, _ = extract_features(encoder, loader, layers=layers, pooling=pooling, description=f"{title}: {split}")
        for layer, tensor in pooled.items():
            features.setdefault(layer, {})[split] = tensor.numpy()
    return {method: measure(fit, features, labels) for method, fit in METHODS.items()}


def measure(fit: Method, layers: Layers, labels: dict[str, np.ndarray]) -> Measurement:
    """Fit on every layer, keep the one that predicts the validation items best (the first of equals), test that."""
    fitted = {
        layer: fit(splits["train"], labels["train"], splits["validation"], labels["validation"])
        for layer, splits in layers.items()
    }
    layer, best = max(fitted.items(), key=lambda item: item[1].validation_accuracy)
    predictions = best.predict(layers[layer]["test"])
    return Measurement(
        settings=best.settings,
        layer=layer,
        validation_accuracy=best.validation_accuracy,
        scores=classification_scores(predictions, labels["test"]),
        intervals=bootstrap_intervals(predictions, labels["test"]),
    )


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    packages = ("hf-ssl", "torch", "transformers", "scikit-learn")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _raw_rows(modality: str, splits: DatasetDict, labels: dict[str, np.ndarray]) -> list[Row]:
    raw = raw_features(modality, splits)
    methods = TFIDF_METHODS if modality == "text" else METHODS
    return _rows(raw.title, [{method: measure(fit, {None: raw.splits}, labels) for method, fit in methods.items()}])


def _rows(features: str, runs: list[dict[str, Measurement]], seeds: Sequence[int] = ()) -> list[Row]:
    return [Row(features, method, [run[method] for run in runs], list(seeds)) for method in runs[0]]

"""A frozen encoder beside an untrained one and beside raw features, on one split."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
from datasets import DatasetDict
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_ssl.data.arguments import DataArguments, check_fraction
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.low_shot import low_shot_rows
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
"""Of the untrained encoders, and of the subsets of the training items where few are labelled."""

RANDOM = "random initialisation"

SPLITS = ("train", "validation", "test")


Layers: TypeAlias = dict[int | None, dict[str, Features]]  # features by layer (None: raw), then by split
Runs: TypeAlias = list[dict[str, Measurement]]  # one a seed, each by method

METHODS: dict[str, Method] = {"linear probe": fit_linear_probe, "kNN": fit_knn}
# TF-IDF has one method: cosines of sparse rows share too few words for neighbours to mean much.
TFIDF_METHODS: dict[str, Method] = {"linear probe": fit_sparse_probe}


@dataclass(frozen=True)
class LabelledItems:
    """Labelled items to fit on, to choose on and to measure on, as an encoder reads them.

    Args:
        splits (`DatasetDict`): see [`labelled_splits`].
        labels (`dict[str, np.ndarray]`): their classes (N,), int64, by split.
        loaders (`dict[str, DataLoader]`): their batches, by split.
    """

    splits: DatasetDict
    labels: dict[str, np.ndarray]
    loaders: dict[str, DataLoader]


def labelled_items(
    splits: DatasetDict, modality: str, processor: Processor, *, batch_size: int = 32, num_workers: int = 0
) -> LabelledItems:
    """The items of [`labelled_splits`] for an encoder.

    Args:
        splits (`DatasetDict`): with the splits train, validation and test.
        modality (`str`): of the encoder.
        processor ([`Processor`]): of the encoder.
        batch_size (`int`): items at once.
        num_workers (`int`): processes that decode and preprocess.
    """
    labels = {split: np.asarray(splits[split]["label"], dtype=np.int64) for split in SPLITS}
    collator = LabelledCollator(modality=modality, processor=processor)
    loaders = {
        split: feature_loader(splits[split], collator, batch_size=batch_size, num_workers=num_workers)
        for split in SPLITS
    }
    return LabelledItems(splits, labels, loaders)


def evaluate_encoder(
    encoder: str | Path | PreTrainedModel,
    data: DataArguments,
    *,
    processor: Processor | None = None,
    layers: str | Sequence[int] = "last",
    pooling: str = "mean",
    seeds: Sequence[int] = SEEDS,
    train_fractions: Sequence[float] = (1.0,),
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
        seeds (`Sequence[int]`): of the untrained encoders, and of the subsets of the training items; at least two
            give a spread.
        train_fractions (`Sequence[float]`): shares of the training items that the classifiers are fitted on, in
            (0, 1]; there are rows for each. Below 1 they are a subset a seed, see [`hf_ssl.data.low_shot`]; the
            validation items, by which a penalty or layer is chosen, stay whole, and so do the texts of which TF-IDF
            counts words.
        batch_size (`int`): items at once.
        num_workers (`int`): processes that decode and preprocess.

    Raises:
        InputError: for an encoder, data or settings that cannot be used.
    """
    for fraction in train_fractions:
        check_fraction("--train-fraction", fraction)
    name = str(encoder) if isinstance(encoder, (str, Path)) else type(encoder).__name__
    if isinstance(encoder, (str, Path)):
        encoder, processor = load_encoder(encoder)
    assert processor is not None, "an encoder in memory comes with its processor"
    modality = modality_of(encoder)
    if pooling == "cls":
        check_class_token(encoder)
    splits = labelled_splits(at_its_rate(data, processor), modality)
    items = labelled_items(splits, modality, processor, batch_size=batch_size, num_workers=num_workers)
    features = partial(features_of, items=items, layers=layers, pooling=pooling)
    measured = partial(measure_fractions, METHODS, labels=items.labels, fractions=train_fractions)
    own = measured(features(encoder, title="encoder"), seeds=seeds)
    untrained = [
        measured(features(random_encoder(encoder, seed), title=f"untrained, seed {seed}"), seeds=[seed])
        for seed in seeds
    ]
    raw_title, raw = measure_raw(modality, items, train_fractions, seeds)
    random = {fraction: [run for runs in untrained for run in runs[fraction]] for fraction in train_fractions}
    measurements = {"encoder": own, RANDOM: random, raw_title: raw}
    return EvaluationResult(
        encoder=name,
        data=data.path,
        label=str(data.label_column),
        modality=modality,
        pooling=pooling,
        num_items={split: len(splits[split]) for split in SPLITS},
        num_classes=splits["train"].features["label"].num_classes,
        rows=[
            row
            for fraction in train_fractions
            for title, runs in measurements.items()
            for row in rows_at(fraction, title, runs[fraction], seeds, items)
        ],
        versions=versions(),
    )


def measure_encoder(
    encoder: PreTrainedModel,
    *,
    items: LabelledItems,
    layers: str | Sequence[int],
    pooling: str,
    title: str,
) -> dict[str, Measurement]:
    """Every method on one encoder's features, by method.

    Args:
        encoder (`PreTrainedModel`): is frozen.
        items ([`LabelledItems`]): as it reads them.
        layers (`str` or `Sequence[int]`): see [`extract_features`].
        pooling (`str`): see [`extract_features`].
        title (`str`): of the progress bars.
    """
    layers_of_splits = features_of(encoder, items=items, layers=layers, pooling=pooling, title=title)
    return {method: measure(fit, layers_of_splits, items.labels) for method, fit in METHODS.items()}


def features_of(
    encoder: PreTrainedModel, *, items: LabelledItems, layers: str | Sequence[int], pooling: str, title: str
) -> Layers:
    """An encoder's features, by layer and split; the arguments are those of [`measure_encoder`]."""
    features: Layers = {}
    for split, loader in items.loaders.items():
        pooled, _ = extract_features(encoder, loader, layers=layers, pooling=pooling, description=f"{title}: {split}")
        for layer, tensor in pooled.items():
            features.setdefault(layer, {})[split] = tensor.numpy()
    return features


def measure_fractions(
    methods: Mapping[str, Method],
    layers: Layers,
    *,
    labels: dict[str, np.ndarray],
    fractions: Sequence[float],
    seeds: Sequence[int],
) -> dict[float, Runs]:
    """Every method on shares of the training items: below 1 once a seed, on the subset that the seed draws.

    Args:
        methods (`Mapping[str, Method]`): by name.
        layers (`Layers`): features.
        labels (`dict[str, np.ndarray]`): classes by split.
        fractions (`Sequence[float]`): in (0, 1].
        seeds (`Sequence[int]`): of the subsets.
    """
    runs: dict[float, Runs] = {}
    for fraction in fractions:
        runs[fraction] = []
        for seed in seeds if fraction < 1 else (0,):
            rows = low_shot_rows(labels["train"], fraction, seed) if fraction < 1 else slice(None)
            fewer = {layer: {**splits, "train": splits["train"][rows]} for layer, splits in layers.items()}
            their_labels = {**labels, "train": labels["train"][rows]}
            runs[fraction].append({method: measure(fit, fewer, their_labels) for method, fit in methods.items()})
    return runs


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


def measure_raw(
    modality: str, items: LabelledItems, fractions: Sequence[float], seeds: Sequence[int]
) -> tuple[str, dict[float, Runs]]:
    """What features are called that nobody had to learn ([`raw_features`]), and every method on them."""
    raw = raw_features(modality, items.splits)
    methods = TFIDF_METHODS if modality == "text" else METHODS
    return raw.title, measure_fractions(
        methods, {None: raw.splits}, labels=items.labels, fractions=fractions, seeds=seeds
    )


def raw_rows(modality: str, items: LabelledItems) -> list[Row]:
    """Every method on features that nobody had to learn; see [`raw_features`]."""
    title, runs = measure_raw(modality, items, (1.0,), (0,))
    return rows_of(title, runs[1.0])


def rows_at(fraction: float, features: str, runs: Runs, seeds: Sequence[int], items: LabelledItems) -> list[Row]:
    """[`rows_of`] on a share of the training items; of all items, only untrained encoders have several seeds."""
    number = len(low_shot_rows(items.labels["train"], fraction, seed=0))  # the same for every seed
    return rows_of(features, runs, seeds if fraction < 1 or features == RANDOM else (), fraction, number)


def rows_of(
    features: str,
    runs: Runs,
    seeds: Sequence[int] = (),
    train_fraction: float = 1.0,
    num_labelled: int | None = None,
) -> list[Row]:
    """One row a method of what was measured, once a seed, of one kind of features; see [`Row`]."""
    return [
        Row(features, method, [run[method] for run in runs], list(seeds), train_fraction, num_labelled)
        for method in runs[0]
    ]

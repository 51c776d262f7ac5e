"""One set of items that all encoders of a comparison are judged on, with or without classes."""

# N items, D hidden size

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.loading import load_splits
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError
from hf_ssl.evaluation import collapse
from hf_ssl.evaluation.embedding_map import map_places
from hf_ssl.evaluation.encoders import load_encoder, random_encoder
from hf_ssl.evaluation.evaluate import SEEDS, SPLITS, labelled_items, measure_encoder, raw_rows, rows_of
from hf_ssl.evaluation.features import extract_features, feature_loader
from hf_ssl.evaluation.result import Measurement, Row
from hf_ssl.evaluation.splits import labelled_splits
from hf_ssl.modeling.blocks.pretrained import Processor

LAYERS = "all"
"""From which each probe chooses on validation: masked and autoregressive objectives have their best ones inside."""

NUM_MAPPED = 400
"""Items on a map."""


@dataclass(frozen=True)
class Judgement:
    """What is found out of one encoder.

    Args:
        measurements (`dict[str, Measurement]`): by method; empty without classes.
        collapse (`dict[str, float]`): `effective_rank` and `feature_std` of the last layer's features of the test
            items, so that they compare between encoders of one size.
        places (`list[list[float]]`): (N, 2), of the first test items on a map; empty where none was asked for.
    """

    measurements: dict[str, Measurement]
    collapse: dict[str, float]
    places: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Of plain values."""
        measurements = {name: Measurement(**fields) for name, fields in values["measurements"].items()}
        return cls(measurements, values["collapse"], values["places"])


class Bench:
    """The items of a comparison of image encoders.

    Without a label, encoders are judged on validation items (without those, on training items), and not probed.

    Args:
        data ([`ImageDataArguments`]): the images, and perhaps a `label_column`.

    Raises:
        InputError: for images or classes that cannot be used, or a stream.
    """

    def __init__(self, data: ImageDataArguments) -> None:
        if data.streaming:
            raise InputError(
                "data.streaming is true, but a comparison reads its data more than once; set it to false."
            )
        self.is_labelled = data.label_column is not None
        if self.is_labelled:
            self.splits = labelled_splits(data, "vision")
        else:
            train, validation, _ = load_usable(data, "vision", 0)
            self.splits = DatasetDict({"test": _with_one_class(train if validation is None else validation)})
        self.has_test_split = "test" in load_splits(data, "vision")
        mapped = self.splits["test"].select(range(min(NUM_MAPPED, len(self.splits["test"]))))
        self.mapped_labels = [mapped.features["label"].int2str(label) for label in mapped["label"]]
        self.mapped_colours = [_mean_colour(row) for row in mapped]

    def judge(self, folder: Path, *, title: str, with_map: bool) -> Judgement:
        """An encoder that a pretraining has left.

        Args:
            folder (`Path`): of the encoder.
            title (`str`): of the progress bars.
            with_map (`bool`): whether the map is made.
        """
        encoder, processor = load_encoder(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return self._judge(encoder.to(device), processor, title=title, with_map=with_map)

    def baselines(self, folder: Path) -> tuple[list[Row], Judgement]:
        """What a trained encoder has to beat: untrained ones of its config, and pixels.

        Args:
            folder (`Path`): of an encoder.

        Returns:
            `tuple[list[Row], Judgement]`: the rows of both, none without classes; and the first untrained encoder.
        """
        encoder, processor = load_encoder(folder)
        untrained = [
            self._judge(random_encoder(encoder, seed), processor, title=f"untrained, seed {seed}", with_map=not index)
            for index, seed in enumerate(SEEDS if self.is_labelled else SEEDS[:1])
        ]
        if not self.is_labelled:
            return [], untrained[0]
        random = rows_of("random initialisation", [judgement.measurements for judgement in untrained], SEEDS)
        items = labelled_items(self.splits, "vision", processor)
        return [*random, *raw_rows("vision", items)], untrained[0]

    def _judge(self, encoder: PreTrainedModel, processor: Processor, *, title: str, with_map: bool) -> Judgement:
        measurements = {}
        if self.is_labelled:
            items = labelled_items(self.splits, "vision", processor)
            measurements = measure_encoder(encoder, items=items, layers=LAYERS, pooling="mean", title=title)
        features = self._test_features(encoder, processor)
        signs = {
            "effective_rank": float(collapse.effective_rank(features)),
            "feature_std": float(collapse.feature_std(features)),
        }
        places = map_places(features[:NUM_MAPPED].numpy()).tolist() if with_map else []
        return Judgement(measurements, signs, places)

    def _test_features(self, encoder: PreTrainedModel, processor: Processor) -> Tensor:
        loader = feature_loader(self.splits["test"], LabelledCollator(modality="vision", processor=processor))
        features, _ = extract_features(encoder, loader, description="test items")
        return next(iter(features.values()))

    @property
    def num_items(self) -> dict[str, int]:
        """Items by split."""
        return {split: len(self.splits[split]) for split in SPLITS if split in self.splits}

    @property
    def num_classes(self) -> int:
        """Of the label; 1 without one."""
        return self.splits["test"].features["label"].num_classes


def _with_one_class(items: Dataset) -> Dataset:
    """Features are extracted of items with a class."""
    items = items.select_columns(["image"]).select(range(min(collapse.MAX_ROWS, len(items))))
    return items.add_column("label", [0] * len(items), feature=ClassLabel(names=["item"]))


def _mean_colour(row: dict[str, Any]) -> str:
    red, green, blue = np.asarray(decode_image(row["image"])).reshape(-1, 3).mean(axis=0).round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"

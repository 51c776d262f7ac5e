"""From recordings to discrete units: features, one codebook fitted on the training split, the units of every split.

The first iteration of HuBERT (Hsu et al. 2021, https://arxiv.org/abs/2106.07447, section IV.B) clusters MFCCs into 100
units, later ones a hidden layer of the last iteration's encoder into 500.

Each step works shard by shard and leaves every finished one on disk: an interrupted run continues there. Only the
features that the codebook is fitted on are stored (`fit_fraction` of the training split); those of other shards are
used as they come and forgotten.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.units import save_units
from hf_ssl.data.usable import usable
from hf_ssl.errors import InputError, writing
from hf_ssl.trainers.clustering_report import Reference, Tally, read_reference
from hf_ssl.trainers.extraction import Extraction
from hf_ssl.trainers.frame_features import FrameFeatures, frame_features
from hf_ssl.trainers.kmeans import KMeans, assign, fit, squared_distance
from hf_ssl.trainers.shards import FeaturesOnDisk, Shard, ShardFolder, cut, require_same, write_whole

logger = logging.getLogger(__name__)

CODEBOOK_FILE = "codebook.safetensors"
REPORT_FILE = "report.json"
SHARDS = "shards"
"""Folder in the output folder where unfinished work is."""


@dataclass(kw_only=True)
class ClusteringArguments:
    """What is clustered, and into how many units.

    Args:
        features (`str`): `"mfcc"`, `"log_mel"`, or the folder or Hub name of a waveform encoder.
        layer (`int`, *optional*): the hidden layer of that encoder; `n` is the output of its `n`-th Transformer layer
            (`hidden_states[n]`), 0 the input of the first.
        num_clusters (`int`): number of units.
        fit_fraction (`float`): share of the training recordings that the codebook is fitted on, in (0, 1], rounded up
            to whole shards of 5 minutes.
        reference (`str`, *optional*): column with the labels that the units are compared with in the report: one value
            a recording, or a list of values that are evenly spread over it.
    """

    features: str = "mfcc"
    layer: int | None = None
    num_clusters: int = 100
    fit_fraction: float = 1.0
    reference: str | None = None

    def __post_init__(self) -> None:
        if self.num_clusters < 2:
            raise InputError(f"num_clusters is {self.num_clusters}; at least 2 are needed.")
        if not 0 < self.fit_fraction <= 1:
            raise InputError(f"fit_fraction is {self.fit_fraction}; give a share of the training split in (0, 1].")


def cluster(data: SpeechDataArguments, arguments: ClusteringArguments, output: str | Path, *, seed: int = 0) -> Path:
    """Makes the units of a data set; where they are complete already, nothing is done.

    Leaves in `output`: `units.parquet` and `units.json` (see [`hf_ssl.data.units`]; what `data.units` names),
    `codebook.safetensors` (`centroids`, (K, D)) and `report.json` (inertia, use of the units, agreement with the
    reference). The same data, arguments, seed and device give the same units, interrupted or not.

    Args:
        data ([`SpeechDataArguments`]): the recordings; `max_seconds` and `units` are not looked at.
        arguments ([`ClusteringArguments`]): what is made of them.
        output (`str` or `Path`): folder to write.
        seed (`int`): of the order of the recordings and of the codebook.

    Returns:
        `Path`: `output`.

    Raises:
        InputError: for data, names or values that cannot be used; if `output` holds other units; if the disk is full.
    """
    if data.streaming:
        raise InputError("Units belong to the rows of stored data; set data.streaming=false.")
    folder, device = Path(output), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = usable(load_splits(data, "speech"), "speech", data)
    reference = None if arguments.reference is None else read_reference(splits, arguments.reference)
    features = frame_features(arguments.features, arguments.layer, data.sampling_rate, device)
    identity = _identity(splits, features, data, arguments, seed)
    if (folder / REPORT_FILE).is_file():
        require_same(json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["identity"], identity, folder)
        logger.info("The units in %s are complete.", folder)
        shutil.rmtree(folder / SHARDS, ignore_errors=True)  # of a run that was killed right after its report
        return folder
    work = ShardFolder(folder / SHARDS, identity)
    extraction = Extraction(splits, features, data.sampling_rate, work)
    shards = {name: cut(name, split["length"], seed) for name, split in splits.items()}
    codebook = _codebook(extraction, shards["train"], arguments, seed, device)
    _assign(extraction, [shard for split in shards.values() for shard in split], codebook.centroids.to(device))
    units, measures = _collect(work, shards, arguments.num_clusters, reference)
    made_by = {**asdict(arguments), "seed": seed, "label_rate": features.rate, "sampling_rate": data.sampling_rate}
    paths = {name: split.select_columns(["audio"]).flatten()["audio.path"] for name, split in splits.items()}
    with writing(folder):
        save_units(folder, units, paths, {**made_by, "splits": measures})
    _save_codebook(folder / CODEBOOK_FILE, codebook)
    fitted = {"num_frames": codebook.num_frames, "inertia_of_passes": codebook.inertia}
    report = {**made_by, "data": asdict(data), "fit": fitted, "splits": measures, "identity": identity}
    write_whole(folder / REPORT_FILE, lambda staged: staged.write_text(json.dumps(report, indent=2) + "\n"))
    work.remove()
    return folder


def _identity(
    splits: Mapping[str, Dataset],
    features: FrameFeatures,
    data: SpeechDataArguments,
    arguments: ClusteringArguments,
    seed: int,
) -> dict[str, Any]:
    """Everything that the units depend on; the recordings by their number and total length."""
    recordings = {name: f"{len(split)} lasting {sum(split['length']):.2f} s" for name, split in splits.items()}
    return {
        **asdict(arguments),
        "seed": seed,
        "sampling_rate": data.sampling_rate,
        "recordings": recordings,
        "weights": features.digest,
    }


def _codebook(
    extraction: Extraction,
    train: Sequence[Shard],
    arguments: ClusteringArguments,
    seed: int,
    device: torch.device,
) -> KMeans:
    """The codebook fitted on the first shards of the training split, which are random ones."""
    file = extraction.folder.path / CODEBOOK_FILE
    if not file.is_file():
        shards = train[: math.ceil(arguments.fit_fraction * len(train))]
        extraction.store(shards)
        features = FeaturesOnDisk(extraction.folder, shards)
        _save_codebook(file, fit(features, arguments.num_clusters, seed=seed, device=device))
    tensors = load_file(file)
    codebook = KMeans(tensors["centroids"], tensors["inertia_of_passes"].tolist(), int(tensors["num_frames"]))
    logger.info(
        "%d clusters fitted to %d frames in %d passes: mean squared distance %.4g.",
        len(codebook.centroids),
        codebook.num_frames,
        len(codebook.inertia),
        codebook.inertia[-1],
    )
    return codebook


def _save_codebook(file: Path, codebook: KMeans) -> None:
    tensors = {
        "centroids": codebook.centroids,
        "inertia_of_passes": torch.tensor(codebook.inertia, dtype=torch.float64),
        "num_frames": torch.tensor(codebook.num_frames),
    }
    write_whole(file, lambda staged: save_file(tensors, staged))


def _assign(extraction: Extraction, shards: Sequence[Shard], centroids: Tensor) -> None:
    """Stores the units of the shards that are not stored yet, as `units` (N,), `lengths` and `squared_distance`."""
    work = extraction.folder
    missing = work.missing("units", shards)
    integer = torch.int16 if len(centroids) <= torch.iinfo(torch.int16).max else torch.int32
    with tqdm(total=sum(len(shard.rows) for shard in missing), desc="units", unit="recording") as progress:
        for shard in missing:
            frames, lengths = extraction.load_or_compute(shard)
            frames = frames.to(centroids.device)
            units = assign(frames, centroids)
            distance = torch.tensor(squared_distance(frames, centroids, units), dtype=torch.float64)
            work.save(
                "units",
                shard,
                {"units": units.to("cpu", integer), "lengths": lengths, "squared_distance": distance},
            )
            progress.update(len(shard.rows))


def _collect(
    work: ShardFolder, shards: Mapping[str, Sequence[Shard]], num_clusters: int, reference: Reference | None
) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """The units of every recording, in the order of its split, and the measures of every split."""
    units: dict[str, list[np.ndarray]] = {}
    measures = {}
    for name, of_split in shards.items():
        tally, by_row = Tally(num_clusters, reference, name), dict[int, np.ndarray]()
        for shard in of_split:
            stored = work.load("units", shard)
            rows = stored["units"].split(stored["lengths"].tolist())
            tally.add(shard.rows, rows, stored["squared_distance"].item())
            by_row.update(zip(shard.rows, (row.numpy() for row in rows), strict=True))
        units[name] = [by_row[row] for row in range(len(by_row))]
        measures[name] = tally.measures()
    return units, measures

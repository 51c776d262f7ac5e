"""Features that nobody had to learn: what an encoder has to beat, on the same split."""

# N items

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_ssl.data.decoding import decode_audio, decode_image
from hf_ssl.data.features import log_mel_statistics

Features: TypeAlias = np.ndarray | csr_matrix

IMAGE_SIDE = 32
SAMPLING_RATE = 16_000


@dataclass(frozen=True)
class RawFeatures:
    """One modality's raw features.

    Args:
        title (`str`): what they are.
        splits (`dict[str, Features]`): features (N, D) by split, dense fp32 or sparse.
    """

    title: str
    splits: dict[str, Features]


def raw_features(modality: str, splits: DatasetDict) -> RawFeatures:
    """The raw features of every split.

    Args:
        modality (`str`): `"vision"`: the pixels of the image squeezed to 32 × 32; `"speech"`: mean and standard
            deviation over time of 80 log-mel bands at 16 kHz; `"text"`: TF-IDF of words and pairs of neighbouring
            words, sparse, with the vocabulary and frequencies of the training split.
        splits (`DatasetDict`): with a split `train` and the modality's column.
    """
    if modality == "text":
        return RawFeatures("TF-IDF of word 1-2-grams", _tfidf(splits))
    title, compute = {
        "vision": (f"pixels ({IMAGE_SIDE} × {IMAGE_SIDE})", pixels),
        "speech": ("log-mel statistics", log_mels),
    }[modality]
    return RawFeatures(title, {name: compute(dataset) for name, dataset in splits.items()})


def pixels(dataset: Dataset) -> np.ndarray:
    """RGB values in [0, 1] of every image, (N, 3072) fp32."""
    size = (IMAGE_SIDE, IMAGE_SIDE)
    images = (decode_image(row["image"]).resize(size, Image.Resampling.BICUBIC) for row in dataset)
    return np.stack([np.asarray(image, dtype=np.float32).ravel() / 255 for image in images])


def log_mels(dataset: Dataset) -> np.ndarray:
    """[`log_mel_statistics`] of every recording, (N, 160) fp32."""
    waveforms = (torch.from_numpy(decode_audio(row["audio"], SAMPLING_RATE)) for row in dataset)
    return torch.stack([log_mel_statistics(waveform, SAMPLING_RATE) for waveform in waveforms]).numpy()


def _tfidf(splits: DatasetDict) -> dict[str, Features]:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(splits["train"]["text"])
    return {name: vectorizer.transform(dataset["text"]) for name, dataset in splits.items()}

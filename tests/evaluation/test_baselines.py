import io

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.features import log_mel_statistics
from hf_ssl.data.loading import load_splits
from hf_ssl.evaluation.baselines import raw_features
from tests.trainers.recordings import write_recordings


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    flat = np.full((64, 48, 3), 51, dtype=np.uint8)
    splits = DatasetDict({"train": Dataset.from_dict({"image": [png(noise), png(flat)]})})
    raw = raw_features("vision", splits)
    assert raw.title == "pixels (32 × 32)"
    assert raw.splits["train"].dtype == np.float32
    np.testing.assert_allclose(raw.splits["train"][0], noise.ravel() / 255, rtol=1e-6)
    np.testing.assert_allclose(raw.splits["train"][1], np.full(3072, 0.2), rtol=1e-6)


def test_log_mel_statistics(tmp_path):
    splits = load_splits(write_recordings(tmp_path, {"train": 3, "validation": 1, "test": 2}), "speech")
    raw = raw_features("speech", splits)
    waveform = torch.from_numpy(decode_audio(splits["test"][1]["audio"], 16_000))
    assert raw.splits["train"].shape == (3, 160)
    np.testing.assert_allclose(raw.splits["test"][1], log_mel_statistics(waveform, 16_000).numpy(), rtol=1e-6)


def test_tfidf_knows_only_the_words_of_the_training_items():
    texts = {"train": ["red green", "green blue"], "test": ["green blue violet"]}
    raw = raw_features("text", DatasetDict({name: Dataset.from_dict({"text": rows}) for name, rows in texts.items()}))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(texts["train"])
    assert sorted(vectorizer.vocabulary_) == ["blue", "green", "green blue", "red", "red green"]
    np.testing.assert_allclose(raw.splits["test"].toarray(), vectorizer.transform(texts["test"]).toarray())
    assert raw.splits["test"].nnz == 3
    assert np.linalg.norm(raw.splits["test"].toarray()) == pytest.approx(1)

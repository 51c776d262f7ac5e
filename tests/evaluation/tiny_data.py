"""Small labelled data of each modality, as a user would have them, with classes that can be told apart."""

import json

import numpy as np
from PIL import Image

from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from tests.trainers.recordings import write_recordings

COUNTS = {"train": 20, "validation": 8, "test": 8}


def image_data(folder):
    """Noise, reddish or bluish, in one folder a class."""
    rng = np.random.default_rng(0)
    for split, number in COUNTS.items():
        for index in range(number):
            label = ("red", "blue")[index % 2]
            pixels = rng.integers(0, 256, (20, 20, 3))
            pixels[..., 0 if label == "red" else 2] += 60
            path = folder / split / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return ImageDataArguments(path=str(folder), label_column="label")


def speech_data(folder):
    data = write_recordings(folder, COUNTS)
    return SpeechDataArguments(path=data.path, label_column="speaker")


def text_data(folder):
    """Sentences about two things."""
    rng = np.random.default_rng(0)
    nouns = {"animal": ["cat", "dog", "horse", "sheep"], "tool": ["saw", "axe", "drill", "file"]}
    folder.mkdir(parents=True)
    for split, number in COUNTS.items():
        rows = []
        for index in range(number):
            kind = ("animal", "tool")[index % 2]
            words = rng.choice(["old", "small", "a", "the", "with", *nouns[kind]], rng.integers(3, 9)).tolist()
            rows.append(json.dumps({"text": " ".join([*words, str(rng.choice(nouns[kind]))]), "kind": kind}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return TextDataArguments(path=str(folder), label_column="kind")

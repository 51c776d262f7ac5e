"""Small real data for each task, and how to train on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_ssl.data.arguments import DataArguments, ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments
from tests.tiny_encoders import save_image_encoder, save_speech_encoder, save_text_encoder

MODALITIES = {
    "image-classification": "vision",
    "text-classification": "text",
    "token-classification": "text",
    "audio-classification": "speech",
    "ctc": "speech",
}
SAVE: dict[str, Callable[[Path], Path]] = {
    "vision": save_image_encoder,
    "text": save_text_encoder,
    "speech": save_speech_encoder,
}
SENTENCES = [
    ("D N V", "the cat sleeps"),
    ("D J N V R", "the very old cat sleeps"),
    ("V", "go"),
    ("N V D N", "water fills the glass"),
    ("D N V D J N", "an engine pulls a long train"),
    ("N V", "rain falls"),
]


class Cases:
    """Encoders and data in a folder, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def encoder(self, task: str) -> str:
        modality = MODALITIES[task]
        path = self.folder / modality
        return str(path if path.exists() else SAVE[modality](path))

    def data(self, task: str, **changes: Any) -> DataArguments:
        fields = {"max_train_items": 8, "validation_split": None, "test_split": None, **changes}
        if task == "image-classification":
            return ImageDataArguments(**{"path": "sample:emoji", "label_column": "category", **fields})
        if task == "text-classification":
            return TextDataArguments(**{"path": "sample:glosses", "label_column": "label", **fields})
        if task == "token-classification":
            return TextDataArguments(
                **{"path": str(self.words()), "text_column": "tokens", "label_column": "tags", **fields}
            )
        if task == "audio-classification":
            return SpeechDataArguments(**{"path": str(self.speech()), "label_column": "language", **fields})
        return SpeechDataArguments(**{"path": str(self.speech()), **fields})

    def words(self) -> Path:
        file = self.folder / "words.jsonl"
        rows = [{"tokens": text.split(), "tags": tags.split()} for tags, text in SENTENCES]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def speech(self) -> Path:
        """Eight of the shortest recordings of the sample, in two languages."""
        file = self.folder / "speech.parquet"
        if not file.exists():
            train = load_splits(SpeechDataArguments(path="sample:speech"), "speech")["train"]
            order = sorted(range(len(train)), key=train["duration"].__getitem__)
            words = [row for row in order if train["text"][row].isalpha() and train["duration"][row] > 0.4]
            by_language = [[row for row in words if train["language"][row] == language][:4] for language in (0, 1)]
            train.select([row for rows in by_language for row in rows]).to_parquet(file)
        return file


def training(folder: Path, **changes: Any) -> FineTuningArguments:
    """A short run on the CPU without checkpoints."""
    fields: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "schedule": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return FineTuningArguments(output_dir=str(folder), **{**fields, **changes})

"""Recordings whose every frame is known: sequences of four vowels, sung by two speakers."""

import json
from pathlib import Path

import numpy as np
import soundfile

from hf_ssl.data.arguments import SpeechDataArguments

RATE = 16_000
SEGMENT_SECONDS = 0.2
SPEAKERS = {"ada": 110.0, "bob": 180.0}  # Hz
VOWELS = {"a": (800.0, 1200.0), "i": (300.0, 2300.0), "u": (320.0, 800.0), "o": (500.0, 900.0)}  # formants, Hz


def sing(vowels: list[str], pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Harmonics of the pitch under two resonances, a vowel every 0.2 s."""
    time = np.arange(round(SEGMENT_SECONDS * RATE)) / RATE
    harmonics = pitch * np.arange(1, int(4000 / pitch))
    segments = []
    for vowel in vowels:
        gains = sum(1 / (1 + ((harmonics - formant) / 120) ** 2) for formant in VOWELS[vowel])
        segments.append(gains @ np.sin(2 * np.pi * harmonics[:, None] * time + rng.uniform(0, 6, (len(harmonics), 1))))
    wave = np.concatenate(segments)
    return (0.1 * wave + 1e-3 * rng.standard_normal(len(wave))).astype(np.float32)


def write_recordings(folder: Path, counts: dict[str, int]) -> SpeechDataArguments:
    """Writes WAV files and one table a split, with columns `audio`, `speaker` and `vowels` (one every 0.2 s)."""
    rng = np.random.default_rng(0)
    (folder / "tables").mkdir(parents=True)
    for split, count in counts.items():
        rows = []
        for number in range(count):
            vowels = rng.choice(list(VOWELS), rng.integers(3, 10)).tolist()
            speaker = list(SPEAKERS)[number % 2]
            file = folder / f"{split}-{number}.wav"
            soundfile.write(file, sing(vowels, SPEAKERS[speaker], rng), RATE, subtype="FLOAT")
            rows.append(json.dumps({"audio": str(file), "speaker": speaker, "vowels": vowels}))
        (folder / "tables" / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return SpeechDataArguments(path=str(folder / "tables"))

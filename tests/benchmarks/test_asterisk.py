"""The rules by which the fetched prompts become data sets; the packages themselves are not needed."""

import gzip
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from benchmarks import asterisk
from benchmarks.asterisk import PROMPTS, VOICES, as_spoken, divide, fetch, first_seconds
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits


@pytest.mark.parametrize(
    ("transcript", "spoken"),
    [
        ("Please press 1 to mute, or 0 to exit.", "please press one to mute or zero to exit"),
        ("press * to toggle pause, press # to end", "press star to toggle pause press pound to end"),
        ("Your party's extension", "your party's extension"),
        ("you can dial 500 to attempt", None),
        ("H.323", None),
        ("N B S", None),
        ("Use the 7 key for Q", None),
        ("3D audio enabled", None),
        ("a", None),
        ("i", None),
        ("I am sorry", "i am sorry"),
        ("...", None),
    ],
)
def test_transcripts_in_the_words_that_are_spoken(transcript, spoken):
    assert as_spoken(transcript) == spoken


def test_a_sentence_is_in_one_split_only_and_every_group_is_divided():
    sentences = [(f"sentence {number}", "digits" if number % 3 else "prompts") for number in range(60)]
    rows = [{"text": text, "group": group, "take": take} for text, group in sentences for take in (1, 2)]
    splits = divide(rows)
    texts = {name: {row["text"] for row in split} for name, split in splits.items()}
    assert {name: len(split) for name, split in splits.items()} == {"train": 84, "validation": 18, "test": 18}
    assert (
        not texts["train"] & texts["validation"] | texts["train"] & texts["test"] | texts["validation"] & texts["test"]
    )
    for split in splits.values():
        assert sum(row["group"] == "digits" for row in split) == len(split) * 2 / 3
    assert divide(list(reversed(rows))).keys() == splits.keys()
    assert {row["text"] for row in divide(list(reversed(rows)))["test"]} == texts["test"]


def test_the_first_seconds():
    rows = [{"duration": seconds} for seconds in (3.0, 4.0, 5.0, 6.0)]
    assert first_seconds(rows, 7.0) == rows[:2]
    assert first_seconds(rows, 7.5) == rows[:3]


def test_every_package_is_pinned():
    names = [f"asterisk-core-sounds-{language}{kind}" for language in VOICES for kind in ("", "-wav")]
    assert sorted(package.name for package in PROMPTS) == sorted(names)
    assert all(package.version == "1.6.1-1" and len(package.sha256) == 64 for package in PROMPTS)


def write_packages(folder, sentences):
    """Unpacked packages of all languages with noise for speech, of a second each."""
    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32) / 10
    for language, voice in VOICES.items():
        name = f"asterisk-core-sounds-{language}"
        for package in (name, f"{name}-wav"):
            notes = folder / package / "usr/share/doc" / package
            notes.mkdir(parents=True)
            (notes / "copyright").write_text("CC-BY-SA")
        recordings = folder / f"{name}-wav/usr/share/asterisk/sounds" / voice
        recordings.mkdir(parents=True)
        for key in [*sentences, "without-transcript"]:
            buffer = io.BytesIO()
            soundfile.write(buffer, noise, 8000, format="WAV")
            (recordings / f"{key}.wav").write_bytes(buffer.getvalue())
        text = "; a comment\n" + "".join(f"{key}: {sentence}\n" for key, sentence in sentences.items())
        (folder / name / f"usr/share/doc/{name}/core-sounds-{language}.txt.gz").write_bytes(
            gzip.compress(text.encode())
        )


def test_data_sets_are_written_that_can_be_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(asterisk, "LABELLED_SECONDS", 5.0)
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    sentences = {f"prompt-{word}": f"Press {word}." for word in numbers} | {"dial": "Dial 500 now."}
    write_packages(tmp_path / "packages", sentences)
    fetch(tmp_path, tmp_path / "packages")
    assert "en/train: 6 recordings, 0.1 min, 12 words" in capsys.readouterr().out
    loaded = {
        name: load_splits(SpeechDataArguments(path=str(tmp_path / name)), "speech") for name in ("en", "en_10min")
    }
    sizes = {name: {split: len(rows) for split, rows in splits.items()} for name, splits in loaded.items()}
    assert sizes == {
        "en": {"train": 6, "validation": 2, "test": 2},
        "en_10min": {"train": 5, "validation": 2, "test": 2},
    }
    assert set(loaded["en_10min"]["train"]["text"]) < set(loaded["en"]["train"]["text"])
    unlabelled = pq.read_table(tmp_path / "unlabelled" / "train.parquet").to_pylist()
    keys = {row["key"] for row in unlabelled if row["language"] == "en"}
    tested = {*loaded["en"]["test"]["key"], *loaded["en"]["validation"]["key"]}
    assert keys == {*sentences, "without-transcript"} - tested
    assert len(unlabelled) == 8 + 4 * 12
    rest = pq.read_table(tmp_path / "en_rest" / "train.parquet").to_pylist()
    labelled = set(pq.read_table(tmp_path / "en_10min" / "train.parquet").column("key").to_pylist())
    assert {row["key"] for row in rest} == keys - labelled
    lines = (tmp_path / "text" / "train.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(loaded["en"]["train"]["text"])
    assert len(list((tmp_path / "licences").iterdir())) == len(PROMPTS)

"""Sample `speech`: telephone prompts in Italian and Russian, and ten English clips, with transcripts."""

import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
from datasets import Audio, ClassLabel, Features, Value

from hf_ssl.data.holdout import name_hash
from hf_ssl.data.samples.ogg import with_fixed_serial
from hf_ssl.data.samples.splits import assign_splits, connected_groups

# On libsndfile's scale for Opus, from 0 (256 kbit/s) to 1 (6 kbit/s): about 19 kbit/s, 6 MB in all. FLAC needs 30 MB.
OPUS_COMPRESSION = 0.96
MIN_SECONDS = 0.4  # as SpeechDataArguments.min_seconds
VOICES = {"it": "it_IT_m_Carlo", "ru": "ru_RU_f_IvrvoiceRU"}
GROUPS = ["digits", "letters", "phonetic", "conference", "voicemail", "prompts"]
# Clips without speech whose transcript says so in words instead of brackets.
NOT_SPEECH = {"beep", "beeperr", "confbridge-join", "confbridge-leave"}
# The Italian transcript has lost some accented letters to a question mark.
LOST_ACCENTS = [
    (r"\b(sar|potr)\?", r"\1à"),
    (r"\bpu\?", "può"),
    (r"\bpi\?", "più"),
    (r"\bcos\?", "così"),
    (r"(?<= )\?(?= )", "è"),
]


def build(packages: Path) -> tuple[dict[str, list[dict[str, Any]]], Features]:
    """Reads, cleans, compresses and splits the recordings.

    Args:
        packages: folder with the unpacked packages.

    Returns:
        the rows of each split, and their features. Recordings with the same sentence, and those with the same key in
        two languages, are in the same split.
    """
    rows = [row for language in VOICES for row in _asterisk(packages, language)] + _pocketsphinx(packages)
    properties = [(("key", row["key"]), ("sentence", row["language"], same_sentence(row["text"]))) for row in rows]
    groups = connected_groups(properties)
    strata = {
        f"group {g}": row["group"] if row["language"] != "en" else "en" for g, row in zip(groups, rows, strict=True)
    }
    splits = assign_splits(strata, share=0.15)
    by_split: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for group, row in zip(groups, rows, strict=True):
        by_split[splits[f"group {group}"]].append(row)
    # In an order without meaning, so that the first rows are a fair sample.
    ordered = {
        split: sorted(chosen, key=lambda row: name_hash(row["audio"]["path"])) for split, chosen in by_split.items()
    }
    return ordered, _features()


def same_sentence(text: str) -> str:
    """What two transcripts of the same words have in common: letters and digits only, case folded."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def clean_transcript(text: str, key: str) -> str | None:
    """The words that are spoken, or `None` where the transcript does not tell them.

    A remark at the end (`punto [.]`) is dropped; a remark elsewhere leaves open whether it is spoken.
    """
    if key in NOT_SPEECH:
        return None
    text = re.sub(
        r"^[\w-]+: |\s[a-z]+(-[a-z]+)+: .*$", "", text
    )  # a repeated key, and an entry that lost its line break
    text = re.sub(r"^\[(.)\] ", "", text)
    text = re.sub(r"\s*\[.{0,2}\]$", "", text).strip()
    if not same_sentence(text) or re.search(r"[\[\]()<>]", text):
        return None
    for pattern, letter in LOST_ACCENTS:
        text = re.sub(pattern, letter, text)
    return re.sub(r"\s+", " ", text)


def asterisk_prompts(packages: Path, language: str, voice: str) -> Iterator[tuple[str, Path, str | None]]:
    """The prompts of one language: key, recording, and its transcript as [`clean_transcript`] leaves it.

    Args:
        packages: folder with the unpacked packages `asterisk-core-sounds-<language>` and `-wav`.
        language: two letters.
        voice: the folder of the recordings in the package.

    Returns:
        first the recordings with an entry in the list of transcripts, in its order, then those without.
    """
    name = f"asterisk-core-sounds-{language}"
    notes = packages / name / "usr/share/doc" / name / f"core-sounds-{language}.txt.gz"
    root = packages / f"{name}-wav" / "usr/share/asterisk/sounds" / voice
    recordings = {
        path.relative_to(root).with_suffix("").as_posix().lower(): path for path in sorted(root.rglob("*.wav"))
    }
    without = dict(recordings)
    for line in gzip.decompress(notes.read_bytes()).decode("utf-8-sig").splitlines():
        key, _, transcript = line.partition(": ")
        path = recordings.get(key.lower())
        if not line.startswith(";") and path is not None:
            yield key, path, clean_transcript(transcript.strip(), key)
            without.pop(key.lower(), None)
    yield from ((key, path, None) for key, path in without.items())


def _asterisk(packages: Path, language: str) -> list[dict[str, Any]]:
    """The prompts of one language that have both a transcript and a recording of at least `MIN_SECONDS`."""
    return [
        _row(path, f"{language}/{key}", key, text, language, group_of(key))
        for key, path, text in asterisk_prompts(packages, language, VOICES[language])
        if text is not None and soundfile.info(path).duration >= MIN_SECONDS
    ]


def group_of(key: str) -> str:
    """The group of a prompt, which its key tells."""
    folder = key.partition("/")[0]
    if folder in GROUPS:
        return folder
    if key.startswith(("conf-", "confbridge-")):
        return "conference"
    return "voicemail" if key.startswith("vm-") else "prompts"


def _pocketsphinx(packages: Path) -> list[dict[str, Any]]:
    """Five sentences of an audio book and five phrases with the names of playing cards."""
    root = packages / "pocketsphinx-testdata/usr/share/pocketsphinx/test/data"
    rows = []
    for folder, notes in (("librivox", "transcription"), ("cards", "cards.transcription")):
        for line in (root / folder / notes).read_text().splitlines():
            found = re.fullmatch(r"<s> (.*?)\s*</s> \((.*)\)", line)
            assert found, line
            text, name = found.groups()
            key = f"{folder}/{name}"
            rows.append(_row(root / folder / f"{name}.wav", f"en/{key}", key, text, "en", "prompts"))
    return rows


def _row(path: Path, name: str, key: str, text: str, language: str, group: str) -> dict[str, Any]:
    samples, rate = soundfile.read(path, dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="OGG", subtype="OPUS", compression_level=OPUS_COMPRESSION)
    return {
        "audio": {"bytes": with_fixed_serial(buffer.getvalue()), "path": f"{name}.ogg"},
        "text": text,
        "language": language,
        "group": group,
        "key": key,
        "duration": len(samples) / rate,
    }


def _features() -> Features:
    return Features(
        {
            "audio": Audio(decode=False),
            "text": Value("string"),
            "language": ClassLabel(names=["it", "ru", "en"]),
            "group": ClassLabel(names=GROUPS),
            "key": Value("string"),
            "duration": Value("float32"),
        }
    )

"""Transcripts as targets of CTC (Graves et al. 2006): a character vocabulary, and which recordings can be aligned."""

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.modeling.blocks.frames import IGNORED, num_frames

BLANK, UNKNOWN, WORD_BOUNDARY = "<pad>", "<unk>", "|"


def normalise(transcript: str) -> str:
    """What is left of a transcript to recognise.

    Lower case; letters of every alphabet with their accents (composed, Unicode NFC) and apostrophes; anything else,
    digits and punctuation included, separates words, which stand one space apart.
    """
    text = unicodedata.normalize("NFC", transcript.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    # Unicode categories L (letters) and M (marks: accents without a composed form, vowel signs)
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LM" else " " for c in text)
    return " ".join("".join(kept).split())


def character_processor(transcripts: Iterable[str], feature_extractor: Wav2Vec2FeatureExtractor) -> Wav2Vec2Processor:
    """A processor whose vocabulary is the characters of the transcripts.

    Args:
        transcripts (`Iterable[str]`): of the training recordings, normalised.
        feature_extractor (`Wav2Vec2FeatureExtractor`): the encoder's.

    Returns:
        `Wav2Vec2Processor`: its tokenizer has the blank as padding token 0, then the unknown character, the word
            boundary `|` and the characters in order of code points.
    """
    characters = sorted(set().union(*transcripts) - {" "})
    vocabulary = [BLANK, UNKNOWN, WORD_BOUNDARY, *characters]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(
            str(file),
            pad_token=BLANK,
            unk_token=UNKNOWN,
            word_delimiter_token=WORD_BOUNDARY,
            bos_token=None,
            eos_token=None,
        )
    return Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=tokenizer)


def why_not_alignable(
    transcript: str, seconds: float, config: PreTrainedConfig, *, sampling_rate: int, max_seconds: float
) -> str | None:
    """What keeps CTC from learning a recording; `None` if nothing does.

    CTC needs a frame for each character and one more between two equal ones; with fewer, the loss is infinite.

    Args:
        transcript (`str`): normalised.
        seconds (`float`): duration of the recording.
        config (`PreTrainedConfig`): of an encoder of the wav2vec 2.0 family.
        sampling_rate (`int`): Hz, of the encoder.
        max_seconds (`float`): a longer recording would be cut, and its transcript with it is unknown.
    """
    if not transcript:
        return "its transcript has no letter"
    if seconds > max_seconds:
        return f"it lasts {seconds:.1f} s, longer than data.max_seconds ({max_seconds:g})"
    needed = len(transcript) + sum(left == right for left, right in pairwise(transcript))
    frames = num_frames(config, round(seconds * sampling_rate))
    if frames < needed:
        return f"its {seconds:.2f} s make {frames} frames, and the transcript {transcript!r} needs {needed}"
    return None


@dataclass(kw_only=True)
class TranscriptCollator:
    """Batches of recordings with the characters of their transcripts.

    Args:
        inputs ([`LabelledCollator`]): makes the encoder's inputs.
        tokenizer (`Wav2Vec2CTCTokenizer`): of characters.

    Called with a list of rows with the columns `audio` and `text` (normalised), gives the encoder's inputs and
    `labels` (B, characters), int64, padded with -100.
    """

    inputs: LabelledCollator
    tokenizer: Wav2Vec2CTCTokenizer

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:  # noqa: D102 - described by the class
        batch = self.inputs(examples)
        texts = self.tokenizer([example["text"] for example in examples], padding=True, return_tensors="pt")
        return {**batch, "labels": texts["input_ids"].masked_fill(texts["attention_mask"] == 0, IGNORED)}

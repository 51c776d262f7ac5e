"""Transcripts as targets of CTC (Graves et al. 2006): what is recognised of them, and a vocabulary of its units."""

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.modeling.blocks.frames import IGNORED

BLANK, UNKNOWN, WORD_BOUNDARY = "<pad>", "<unk>", "|"


@dataclass(frozen=True, kw_only=True)
class TranscriptForm:
    """What of a transcript is recognised, and in which units.

    Args:
        unit (`str`): `"characters"`, a space between words among them, or `"phones"`: symbols of any length with
            spaces between them, which are taken as they are (`AA1`, `t͡ʃ`, `a:`); upper and lower case differ.
        normalise (`bool`): of characters, keep what [`normalise`] keeps; otherwise all of them, upper and lower case,
            digits and punctuation, with one space between words.
    """

    unit: str = "characters"
    normalise: bool = True

    @property
    def description(self) -> str:
        """One line for people."""
        if self.unit == "phones":
            return "phones, as the transcripts have them"
        if self.normalise:
            return "lower-case letters of every alphabet and apostrophes; all else separates words"
        return "all characters, as the transcripts have them"

    def clean(self, transcript: str | None) -> str:
        """What is left of a transcript to recognise: characters, or phones with one space between them."""
        if self.unit == "characters" and self.normalise:
            return normalise(transcript or "")
        return " ".join(unicodedata.normalize("NFC", transcript or "").split())

    def units(self, cleaned: str) -> list[str]:
        """The units of a transcript that [`clean`] was applied to."""
        return cleaned.split() if self.unit == "phones" else list(cleaned)

    def tokenizer(self, cleaned: Iterable[str]) -> PreTrainedTokenizer:
        """A tokenizer whose vocabulary is the units of the training transcripts.

        Args:
            cleaned (`Iterable[str]`): transcripts that [`clean`] was applied to.

        Returns:
            `Wav2Vec2CTCTokenizer`, or `Wav2Vec2PhonemeCTCTokenizer` of phones: the blank is the padding token 0, then
                come the unknown unit, among characters the word boundary `|`, and the units in order of code points.
        """
        found = sorted(set().union(*map(self.units, cleaned)) - {" "})
        if self.unit == "phones":
            return _make(Wav2Vec2PhonemeCTCTokenizer, [BLANK, UNKNOWN, *found], do_phonemize=False)
        vocabulary = [BLANK, UNKNOWN, WORD_BOUNDARY, *(unit for unit in found if unit != WORD_BOUNDARY)]
        return _make(Wav2Vec2CTCTokenizer, vocabulary, word_delimiter_token=WORD_BOUNDARY)


def normalise(transcript: str) -> str:
    """What is left of a transcript to recognise.

    Lower case; letters of every alphabet with their accents (composed, Unicode NFC) and apostrophes; anything else,
    digits and punctuation included, separates words, which stand one space apart.
    """
    text = unicodedata.normalize("NFC", transcript.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    # Unicode categories L (letters) and M (marks: accents without a composed form, vowel signs)
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LM" else " " for c in text)
    return " ".join("".join(kept).split())


def _make(tokenizer: type[PreTrainedTokenizer], vocabulary: list[str], **options: Any) -> PreTrainedTokenizer:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({unit: i for i, unit in enumerate(vocabulary)}), encoding="utf-8")
        return tokenizer(str(file), pad_token=BLANK, unk_token=UNKNOWN, bos_token=None, eos_token=None, **options)


def why_not_alignable(units: list[str], frames: int) -> str | None:
    """What keeps CTC from learning a recording; `None` if nothing does.

    CTC needs a frame for each unit and one more between two equal ones; with fewer, the loss is infinite.

    Args:
        units (`list[str]`): of the transcript.
        frames (`int`): that the encoder makes of the recording.
    """
    if not units:
        return "nothing of its transcript is left to recognise"
    needed = len(units) + sum(left == right for left, right in pairwise(units))
    if frames < needed:
        return f"it has {frames} frames, and the {len(units)} units of its transcript need {needed}"
    return None


@dataclass(kw_only=True)
class TranscriptCollator:
    """Batches of recordings with the units of their transcripts.

    Args:
        inputs ([`LabelledCollator`]): makes the encoder's inputs.
        tokenizer (`PreTrainedTokenizer`): of characters or phones.

    Called with a list of rows with the columns `audio` and `text` (cleaned), gives the encoder's inputs and `labels`
    (B, units), int64, padded with -100.
    """

    inputs: LabelledCollator
    tokenizer: PreTrainedTokenizer

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:  # noqa: D102 - described by the class
        batch = self.inputs(examples)
        texts = self.tokenizer([example["text"] for example in examples], padding=True, return_tensors="pt")
        return {**batch, "labels": texts["input_ids"].masked_fill(texts["attention_mask"] == 0, IGNORED)}

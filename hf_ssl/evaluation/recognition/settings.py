"""How recordings are decoded: chosen on the command line or on validation, kept in a file beside the model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_ssl.errors import InputError, unknown_name, writing
from hf_ssl.evaluation.recognition.greedy import GreedyDecoder
from hf_ssl.evaluation.recognition.hypothesis import (
    DEFAULT_BEAM,
    DEFAULT_RESCORING,
    DEFAULT_WEIGHTS,
    Beam,
    Decoder,
    Weights,
)
from hf_ssl.evaluation.recognition.lexicon import Lexicon
from hf_ssl.evaluation.recognition.ngram import is_binary, read_words
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary

FILE = "decoding.json"
DECODERS = ("greedy", "letters", "words")


@dataclass(frozen=True)
class DecodingSettings:
    """How recordings are decoded.

    Args:
        decoder (`str`): one of [`DECODERS`].
        lm (`str`, *optional*): ARPA or KenLM file of the n-gram model.
        lexicon (`str`, *optional*): file with the words and their tokens; by default the words of `lm`, spelled with
            the model's letters.
        rescore (`str`, *optional*): a causal language model, by name or folder.
        weights ([`Weights`]): of the parts of a score in the search.
        beam ([`Beam`]): of the search.
        rescoring ([`Weights`]): by which the causal language model's scores and the others order the n-best list.

    Raises:
        InputError: for a decoder that does not exist, or files that it does not read.
    """

    decoder: str = "greedy"
    lm: str | None = None
    lexicon: str | None = None
    rescore: str | None = None
    weights: Weights = DEFAULT_WEIGHTS
    beam: Beam = DEFAULT_BEAM
    rescoring: Weights = DEFAULT_RESCORING

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise unknown_name("decoder", self.decoder, DECODERS)
        if self.decoder == "greedy" and (self.lm or self.lexicon or self.rescore):
            raise InputError(
                "The greedy decoder reads no language model and no lexicon; choose --decoder words or letters."
            )
        if self.decoder == "letters" and self.lexicon:
            raise InputError("The decoder of letters knows no words; leave --lexicon out or choose --decoder words.")
        if self.decoder == "words" and not (self.lm or self.lexicon):
            raise InputError(
                "The decoder of words has to know which there are; give a language model (--lm) or a lexicon."
            )

    def make_decoder(self, vocabulary: CTCVocabulary) -> tuple[Decoder, Lexicon | None]:
        """The decoder for a model, and the words that it can find if they are limited.

        Raises:
            InputError: when flashlight-text is not installed or a file cannot be used.
        """
        if self.decoder == "greedy":
            return GreedyDecoder(vocabulary), None
        try:
            from hf_ssl.evaluation.recognition.beam import LetterDecoder, WordDecoder
        except ImportError as error:
            raise InputError(
                f"The decoder of {self.decoder} needs flashlight-text ({error}); install it with `pip install "
                "'hf-ssl[decoding]'` (there are wheels up to Python 3.12), or choose --decoder greedy."
            ) from error
        if self.decoder == "letters":
            if self.lm is not None:
                _check_units(self.lm, vocabulary)
            return LetterDecoder(vocabulary, self.lm, self.weights, self.beam), None
        if self.lexicon is not None:
            lexicon = Lexicon.read(self.lexicon, vocabulary)
        else:
            lexicon = Lexicon.spelled(read_words(str(self.lm)), vocabulary)
        return WordDecoder(vocabulary, lexicon, self.lm, self.weights, self.beam), lexicon

    def save(self, path: Path, **facts: Any) -> None:
        """Write the settings, and how they came about, as JSON."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**asdict(self), **facts}, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> "DecodingSettings":
        """What [`save`] wrote.

        Raises:
            InputError: for a file that it did not write.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            fields = {name: values[name] for name in ("decoder", "lm", "lexicon", "rescore")}
            weights, rescoring = Weights(**values["weights"]), Weights(**values["rescoring"])
            return cls(**fields, weights=weights, rescoring=rescoring, beam=Beam(**values["beam"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} holds no settings of a decoder ({error}); write it anew with --tune, or remove it."
            ) from error


def _check_units(lm: str, vocabulary: CTCVocabulary) -> None:
    """Refuses a language model that knows few of the letters or phones: one of words, or of another language."""
    if is_binary(lm):
        return
    known = set(read_words(lm))
    written = [token.lower() if vocabulary.upper_case else token for token in vocabulary.numbers]
    missing = [token for token in written if token not in known]
    if len(missing) > len(written) / 2:
        unit = "phones" if vocabulary.phones else "letters"
        raise InputError(
            f"{lm} lacks {len(missing)} of the model's {len(written)} {unit} ({', '.join(missing[:5])} ...); make a "
            f"language model of them with `hf-ssl lm --unit {unit}`, or choose --decoder words."
        )

"""The words that a decoder may find, and how they are spelled."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary


@dataclass(frozen=True)
class Lexicon:
    """Words with their spellings in the tokens of a model.

    Args:
        spellings (`dict[str, list[tuple[int, ...]]]`): of each word at least one, without the word boundary.
        left_out (`list[str]`): words that the model's tokens cannot spell.
    """

    spellings: dict[str, list[tuple[int, ...]]]
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def spelled(cls, words: Iterable[str], vocabulary: CTCVocabulary) -> "Lexicon":
        """Words written with the letters of the model.

        Raises:
            InputError: when not one can be.
        """
        found = {word: vocabulary.spell(word) for word in words}
        spellings = {word: [tuple(spelling)] for word, spelling in found.items() if spelling}
        if not spellings:
            raise InputError(
                f"The model's {len(vocabulary.numbers)} letters spell none of the language model's {len(found)} "
                f"words ({', '.join(list(found)[:3])} ...); give a language model of words, or a lexicon (--lexicon)."
            )
        return cls(spellings, [word for word, spelling in found.items() if not spelling])

    @classmethod
    def read(cls, path: str | Path, vocabulary: CTCVocabulary) -> "Lexicon":
        """A file with a word and its tokens a line, spaces or a tab between them, as fairseq's and torchaudio's.

        A word may have several lines. A word boundary at a spelling's end may be there or not.

        Raises:
            InputError: for a file that cannot be read, a word without tokens, or when the model has no line's tokens.
        """
        spellings: dict[str, list[tuple[int, ...]]] = {}
        left_out = []
        ending = None if vocabulary.boundary is None else vocabulary.tokens[vocabulary.boundary]
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The lexicon {path} cannot be read ({error}); give a text file.") from error
        for number, line in enumerate(lines, start=1):
            word, *tokens = line.split() or [""]
            tokens = tokens[:-1] if tokens[-1:] == [ending] else tokens
            if word and not tokens:
                raise InputError(f"Line {number} of {path} gives {word!r} no tokens; write them after the word.")
            if word and all(token in vocabulary.numbers for token in tokens):
                spellings.setdefault(word, []).append(tuple(vocabulary.numbers[token] for token in tokens))
            elif word:
                left_out.append(word)
        if not spellings:
            raise InputError(f"No word of {path} is spelled in the model's tokens; give the lexicon of this model.")
        return cls(spellings, left_out)

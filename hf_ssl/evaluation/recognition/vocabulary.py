"""What the outputs of a CTC model stand for, and how it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase, Wav2Vec2PhonemeCTCTokenizer

from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.errors import InputError


@dataclass(frozen=True)
class CTCVocabulary:
    """The tokens of a CTC model.

    Args:
        tokens (`tuple[str, ...]`): by output of the model; `""` for an output without a token.
        blank (`int`): the token of no token.
        boundary (`int`, *optional*): the token between words.
        silent (`frozenset[int]`): tokens that no transcript holds: the unknown one, beginnings and ends of sentences,
            outputs without a token.
        phones (`bool`): whether tokens are written with spaces between them.
    """

    tokens: tuple[str, ...]
    blank: int
    boundary: int | None
    silent: frozenset[int]
    phones: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, num_outputs: int) -> "CTCVocabulary":
        """The vocabulary of a model.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): of CTC; its padding token is the blank.
            num_outputs (`int`): of the model. Tokens beyond them, which some tokenizers add, can never be recognised.

        Raises:
            InputError: for a tokenizer without a blank.
        """
        names = {number: token for token, number in tokenizer.get_vocab().items() if number < num_outputs}
        if tokenizer.pad_token_id not in names:
            raise InputError(
                f"The tokenizer ({type(tokenizer).__name__}) has no padding token among the {num_outputs} outputs of "
                "the model, which is CTC's blank; give a model with the tokenizer that it was trained with."
            )
        delimiter = tokenizer.word_delimiter_token_id
        boundary = delimiter if delimiter in names else None
        spoken = {tokenizer.pad_token_id, boundary}
        silent = {*tokenizer.all_special_ids, *(set(range(num_outputs)) - set(names))} - spoken
        return cls(
            tokens=tuple(names.get(number, "") for number in range(num_outputs)),
            blank=tokenizer.pad_token_id,
            boundary=boundary,
            silent=frozenset(number for number in silent if number < num_outputs),
            phones=isinstance(tokenizer, Wav2Vec2PhonemeCTCTokenizer),
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The letters or phones, without blank, boundary and silent tokens, to their numbers."""
        apart = {self.blank, self.boundary, *self.silent}
        return {token: number for number, token in enumerate(self.tokens) if number not in apart}

    @cached_property
    def upper_case(self) -> bool:
        """Whether the model writes capitals alone, as facebook/wav2vec2-base-960h."""
        letters = "".join(self.numbers)
        return not self.phones and letters.isupper() and letters != letters.lower()

    @cached_property
    def form(self) -> TranscriptForm:
        """What transcripts are compared as: phones, normalised letters, or characters as they are."""
        if self.phones:
            return TranscriptForm(unit="phones")
        normal = TranscriptForm(normalise=True)
        letters = [letter.lower() if self.upper_case else letter for letter in self.numbers]
        return TranscriptForm(normalise=all(normal.clean(letter) == letter for letter in letters))

    def spell(self, word: str) -> list[int] | None:
        """The letters of a word, or of a token of several letters the longest that fits; `None` if one is missing."""
        word = word.upper() if self.upper_case else word
        longest = max(map(len, self.numbers), default=0)
        spelling, start = [], 0
        while start < len(word):
            for length in range(min(longest, len(word) - start), 0, -1):
                number = self.numbers.get(word[start : start + length])
                if number is not None:
                    break
            else:
                return None
            spelling.append(number)
            start += length
        return spelling

    def text(self, tokens: Sequence[int]) -> str:
        """The transcript that tokens, without blanks, spell: words, or phones, one space apart."""
        between = " " if self.phones else ""
        return self.transcript(between.join(" " if token == self.boundary else self.tokens[token] for token in tokens))

    def transcript(self, written: str) -> str:
        """What a model writes, in small letters if it writes capitals alone; one space between words."""
        return " ".join((written.lower() if self.upper_case else written).split())

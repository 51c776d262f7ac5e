"""The symbols of a CTC model: fairseq's `dict.ltr.txt` ↔ a tokenizer of transformers."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

from hf_ssl.errors import InputError

Dictionary = list[tuple[str, int]]
"""Symbols with their counts, without the special ones."""

BLANK, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIALS = [BLANK, START, END, UNKNOWN]
"""The first four tokens here. fairseq has the first two the other way round, `<s>`, `<pad>`, and takes symbol 0 as the
blank: the model's outputs stay where they are, only the names of the first two change.
"""


def read_dictionary(path: Path) -> Dictionary:
    """Read a dictionary file of fairseq: a symbol and its count a line.

    Raises:
        InputError: for a file that is not there, or a line that is no symbol with a count, or stands there twice.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the dict.<labels>.txt that stands beside fairseq's labels.")
    dictionary: Dictionary = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        symbol, _, count = line.rpartition(" ")
        if not symbol or not count.isdigit():
            raise InputError(f"Line {number} of {path} is {line!r}, not a symbol, a space and a count.")
        dictionary.append((symbol, int(count)))
    symbols = [*SPECIALS, *(symbol for symbol, _ in dictionary)]
    twice = [symbol for symbol in symbols if symbols.count(symbol) > 1]
    if twice:
        raise InputError(f"{path} has the symbol {twice[0]!r} twice; every symbol has one place.")
    return dictionary


def format_dictionary(dictionary: Dictionary) -> str:
    """The text of a dictionary file of fairseq."""
    return "".join(f"{symbol} {count}\n" for symbol, count in dictionary)


def make_tokenizer(dictionary: Dictionary) -> Wav2Vec2CTCTokenizer:
    """The tokenizer whose ids are the outputs of the CTC model."""
    tokens = [*SPECIALS, *(symbol for symbol, _ in dictionary)]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file),
            pad_token=BLANK,
            bos_token=START,
            eos_token=END,
            unk_token=UNKNOWN,
            word_delimiter_token="|",
            do_lower_case=False,
        )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a CTC model's outputs.

    Raises:
        InputError: where there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no tokenizer, which names the outputs of its model; save it there.") from error


def dictionary_of(tokenizer: PreTrainedTokenizerBase, num_outputs: int) -> Dictionary:
    """The dictionary of a tokenizer; how often its symbols occurred is not known, so each counts once.

    Raises:
        InputError: when its first four tokens are not those that fairseq puts there, or it has another number of
            tokens than the model has outputs.
    """
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    if tokens[:4] != SPECIALS:
        raise InputError(
            f"The tokenizer begins with {', '.join(tokens[:4])}; fairseq's CTC models begin with the blank and three "
            f"special symbols ({', '.join(SPECIALS)}), so this one has no counterpart."
        )
    if len(tokens) != num_outputs:
        raise InputError(f"The tokenizer has {len(tokens)} tokens, but the model {num_outputs} outputs.")
    return [(token, 1) for token in tokens[4:]]

"""The tokenizer of a run: a given one, or one trained on the run's own texts."""

import json
from collections.abc import Callable, Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_ssl.errors import InputError

PAD, UNKNOWN, CLASS, SEPARATOR, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer that texts can be prepared with.

    Args:
        name_or_path (`str`): anything `AutoTokenizer.from_pretrained` takes.

    Raises:
        InputError: if there is none, or it lacks what masked-token objectives need: a mask and a padding token, and
            the words that its tokens belong to.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No tokenizer can be loaded from {name_or_path!r} (data.tokenizer); "
            f"give a folder or Hub name that has one, or train one with {', '.join(TOKENIZERS)}."
        ) from error
    for role, token in (("mask", tokenizer.mask_token), ("padding", tokenizer.pad_token)):
        if token is None:
            raise InputError(
                f"The tokenizer {name_or_path!r} has no {role} token, which masked-token objectives need; "
                f"give another, or train one with {', '.join(TOKENIZERS)}."
            )
    if not tokenizer.is_fast:
        raise InputError(
            f"The tokenizer {name_or_path!r} does not tell which word a token belongs to; "
            "give one that has a tokenizer.json."
        )
    return tokenizer


def train_tokenizer(
    kind: str, texts: Iterable[str], *, vocab_size: int, lowercase: bool, max_length: int
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with BERT's special tokens and its `[CLS] A [SEP] B [SEP]`.

    The same texts give the same tokenizer, so every process of a run may train its own.

    Args:
        kind (`str`): a name of `TOKENIZERS`.
        texts (`Iterable[str]`): what to train on; read twice.
        vocab_size (`int`): the most tokens, special ones included.
        lowercase (`bool`): whether to lower-case and strip accents.
        max_length (`int`): tokens of the longest sequence that the encoder will be trained on.

    Returns:
        `PreTrainedTokenizerFast`: saved, it loads with `AutoTokenizer` where hf_ssl is not installed.

    Raises:
        InputError: if the vocabulary is too small for the characters of the texts.
    """
    tokenizer = TOKENIZERS[kind](texts, vocab_size, lowercase)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLASS} $A {SEPARATOR}",
        pair=f"{CLASS} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLASS, SEPARATOR)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        cls_token=CLASS,
        sep_token=SEPARATOR,
        mask_token=MASK,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """BERT's: words at spaces and punctuation; inner pieces start with ##."""
    draft = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    draft.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    draft.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    draft.decoder = decoders.WordPiece()

    # The trainer numbers inner characters in the order of a hash table, anew each time, and breaks ties between merges
    # by number. Given to it as special tokens, they have fixed numbers; the final tokenizer has them as plain pieces.
    alphabet = _alphabet(texts, draft.normalizer)
    pieces = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet)]
    _check_vocab_size(vocab_size, len(pieces))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=pieces, show_progress=False)
    draft.train_from_iterator(texts, trainer)
    return _with_model(draft, models.WordPiece(vocab=draft.get_vocab(), unk_token=UNKNOWN))


def _bpe(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """RoBERTa's byte-level BPE: any text has a spelling, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer(normalizers.NFC(), lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_vocab_size(vocab_size, len(SPECIAL_TOKENS) + len(alphabet))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _unigram(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """SentencePiece's unigram language model, on words that keep their leading space."""
    draft = Tokenizer(models.Unigram())
    draft.normalizer = _normalizer(normalizers.NFKC(), lowercase)
    draft.pre_tokenizer = pre_tokenizers.Metaspace()
    draft.decoder = decoders.Metaspace()

    _check_vocab_size(vocab_size, len(SPECIAL_TOKENS) + len(_alphabet(texts, draft.normalizer)) + 1)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token=UNKNOWN, show_progress=False
    )
    draft.train_from_iterator(texts, trainer)

    # Sums over threads differ in their last digits, and with them the order of the pieces: rounded, they agree.
    vocab = [(piece, round(score, 9)) for piece, score in json.loads(draft.to_str())["model"]["vocab"]]
    first = len(SPECIAL_TOKENS)
    vocab[first:] = sorted(vocab[first:], key=lambda entry: (-entry[1], entry[0]))
    return _with_model(draft, models.Unigram(vocab=vocab, unk_id=SPECIAL_TOKENS.index(UNKNOWN)))


def _normalizer(form: normalizers.Normalizer, lowercase: bool) -> normalizers.Normalizer:
    if not lowercase:
        return form
    return normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), form])


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer) -> list[str]:
    """The characters that normalisation leaves of the texts, without spaces, in the order of their code points."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return sorted({c for c in normalizer.normalize_str("".join(sorted(characters))) if not c.isspace()})


def _check_vocab_size(vocab_size: int, least: int) -> None:
    if vocab_size < least:
        raise InputError(
            f"data.vocab_size is {vocab_size}, too small for the characters of these texts; give more than {least}."
        )


def _with_model(draft: Tokenizer, model: models.Model) -> Tokenizer:
    """A tokenizer that works as `draft` does, with another model and the special tokens only."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = draft.normalizer, draft.pre_tokenizer
    tokenizer.decoder = draft.decoder
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


TOKENIZERS: dict[str, Callable[[Iterable[str], int, bool], Tokenizer]] = {
    "wordpiece": _wordpiece,
    "bpe": _bpe,
    "unigram": _unigram,
}

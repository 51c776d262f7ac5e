import json

import pytest
from transformers import Wav2Vec2CTCTokenizer

from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary
from tests.evaluation.recognition.ctc_by_hand import letters


def published(folder, tokens: list[str], **options) -> Wav2Vec2CTCTokenizer:
    """A tokenizer with any vocabulary, in the order of a published checkpoint."""
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options)


def test_letters_boundary_and_silent_tokens():
    _, vocabulary = letters("it's")
    assert vocabulary.tokens == ("<pad>", "<unk>", "|", "'", "i", "s", "t")
    assert (vocabulary.blank, vocabulary.boundary, vocabulary.silent) == (0, 2, {1})
    assert vocabulary.numbers == {"'": 3, "i": 4, "s": 5, "t": 6}
    assert vocabulary.form == TranscriptForm()
    assert vocabulary.spell("it") == [4, 6]
    assert vocabulary.spell("its!") is None
    assert vocabulary.text([2, 4, 6, 2, 2, 5, 2]) == "it s"
    assert vocabulary.text([]) == ""


def test_phones_are_written_with_spaces():
    tokenizer = TranscriptForm(unit="phones").tokenizer(["AA1 B t͡ʃ"])
    vocabulary = CTCVocabulary.of(tokenizer, len(tokenizer))
    assert (vocabulary.phones, vocabulary.boundary, vocabulary.silent) == (True, None, {1})
    assert vocabulary.text([4, 2, 2]) == "t͡ʃ AA1 AA1"
    assert vocabulary.form.unit == "phones"


def test_a_published_model_that_writes_capitals(tmp_path):
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "'"]
    vocabulary = CTCVocabulary.of(published(tmp_path, tokens), 8)
    assert vocabulary.silent == {1, 2, 3}
    assert vocabulary.upper_case
    assert vocabulary.form == TranscriptForm(normalise=True)
    assert vocabulary.spell("te") == [6, 5]
    assert vocabulary.text([6, 4, 5]) == "t e"


def test_a_model_that_writes_all_characters():
    form = TranscriptForm(normalise=False)
    tokenizer = form.tokenizer(["Press 1, now."])
    vocabulary = CTCVocabulary.of(tokenizer, len(tokenizer))
    assert not vocabulary.upper_case
    assert vocabulary.form == form
    assert vocabulary.text(vocabulary.spell("Press")) == "Press"


def test_letters_of_several_characters_are_found_longest_first(tmp_path):
    tokenizer = published(tmp_path, ["<pad>", "<unk>", "|", "s", "c", "h", "sch"], bos_token=None, eos_token=None)
    vocabulary = CTCVocabulary.of(tokenizer, 7)
    assert vocabulary.spell("schhc") == [6, 5, 4]


def test_a_model_without_boundary_or_with_more_outputs_than_tokens(tmp_path):
    """The tokenizer adds a boundary that the model cannot write; the model has an output that nothing belongs to."""
    tokenizer = published(tmp_path, ["<pad>", "<unk>", "a", "b"], bos_token=None, eos_token=None)
    assert "|" in tokenizer.get_vocab()
    assert CTCVocabulary.of(tokenizer, 4).boundary is None
    wider = CTCVocabulary.of(tokenizer, 6)
    assert (wider.boundary, wider.tokens[5], wider.silent) == (4, "", {1, 5})


def test_a_tokenizer_without_blank(tmp_path):
    tokenizer = published(tmp_path, ["a", "<unk>", "|"], pad_token="<blank>", bos_token=None, eos_token=None)
    with pytest.raises(InputError, match="has no padding token among the 3 outputs"):
        CTCVocabulary.of(tokenizer, 3)

import pytest

from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.corpus import Corpus, read_sentences

FORM = TranscriptForm()


def test_files_are_read_line_by_line_in_the_form_of_transcripts(tmp_path):
    (tmp_path / "a.txt").write_text("Hello, World!\n\n12\nC'est l'ÉTÉ.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("no end of line", encoding="utf-8")
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert list(read_sentences(files, FORM)) == ["hello world", "c'est l'été", "no end of line"]
    assert list(read_sentences(files[:1], TranscriptForm(normalise=False)))[:2] == ["Hello, World!", "12"]


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("words", ["ab", "c"]),
        ("letters", ["a", "b", "|", "c"]),
        ("phones", ["ab", "c"]),
    ],
)
def test_sentences_in_units(unit, words):
    corpus = Corpus.of(["ab c", "c"], unit)
    assert [corpus.words[token] for token in corpus.tokens] == ["<s>", *words, "</s>", "<s>", "c", "</s>"]
    assert corpus.positions.tolist() == [*range(len(words) + 2), 0, 1, 2]
    assert corpus.words[:3] == ["<unk>", "<s>", "</s>"]


def test_words_outside_a_vocabulary_are_unknown():
    corpus = Corpus.in_words(["b x a"], Corpus.of(["a b"]).words)
    assert [corpus.words[token] for token in corpus.tokens] == ["<s>", "b", "<unk>", "a", "</s>"]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"no text file .*nowhere\.txt"):
        list(read_sentences([tmp_path / "nowhere.txt"], FORM))
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8"):
        list(read_sentences([tmp_path / "latin.txt"], FORM))
    (tmp_path / "numbers.txt").write_text("1 2\n")
    with pytest.raises(InputError, match="something is left"):
        Corpus.of(read_sentences([tmp_path / "numbers.txt"], FORM))

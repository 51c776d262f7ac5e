import pytest

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.lexicon import Lexicon
from hf_ssl.evaluation.recognition.vocabulary import CTCVocabulary
from tests.evaluation.recognition.ctc_by_hand import letters

_, VOCABULARY = letters("abc")
A, B, C = 3, 4, 5


def test_words_are_spelled_and_those_that_cannot_be_are_named():
    lexicon = Lexicon.spelled(["cab", "bad", "a", "été"], VOCABULARY)
    assert lexicon.spellings == {"cab": [(C, A, B)], "a": [(A,)]}
    assert lexicon.left_out == ["bad", "été"]


def test_a_file_may_have_boundaries_tabs_and_several_spellings(tmp_path):
    (tmp_path / "lexicon.txt").write_text("cab\tc a b |\ncab c b\n\nbad b a d |\na a\n", encoding="utf-8")
    lexicon = Lexicon.read(tmp_path / "lexicon.txt", VOCABULARY)
    assert lexicon.spellings == {"cab": [(C, A, B), (C, B)], "a": [(A,)]}
    assert lexicon.left_out == ["bad"]


def test_a_lexicon_of_phones(tmp_path):
    phones = CTCVocabulary(("<pad>", "|", "K", "AE1", "B"), blank=0, boundary=1, silent=frozenset(), phones=True)
    (tmp_path / "lexicon.txt").write_text("cab K AE1 B\n")
    assert Lexicon.read(tmp_path / "lexicon.txt", phones).spellings == {"cab": [(2, 3, 4)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cab\n", "Line 1 of .* gives 'cab' no tokens"),
        ("cab |\n", "Line 1 of .* gives 'cab' no tokens"),
        ("xyz x y z\n", "No word of .* is spelled"),
        ("", "No word of .* is spelled"),
    ],
)
def test_lexicons_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "lexicon.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        Lexicon.read(tmp_path / "lexicon.txt", VOCABULARY)


def test_a_lexicon_that_is_not_there_and_words_of_another_alphabet(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Lexicon.read(tmp_path / "nowhere.txt", VOCABULARY)
    with pytest.raises(InputError, match=r"3 letters spell none of the language model's 2 words \(да, нет"):
        Lexicon.spelled(["да", "нет"], VOCABULARY)

import pytest

from hf_ssl.cli.main import main

TEXT = "The cat sat.\nThe dog sat down!\nA cat, a dog.\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "held_out.txt").write_text("The cat saw the dog\n", encoding="utf-8")
    return tmp_path


def test_a_model_is_written_and_described(files, capsys):
    output = files / "models" / "lm.arpa"
    arguments = ["--text", str(files / "text.txt"), "--order", "2", "--output", str(output)]
    assert main(["lm", *arguments, "--held-out", str(files / "held_out.txt")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{output}: 9 1-grams, 13 2-grams"  # six words, three special ones
    assert printed[1].startswith("text: perplexity ")
    assert printed[1].endswith(" over 14 words and ends of sentences")
    assert printed[2].startswith("held-out: perplexity ")
    assert "over 5 words and ends of sentences; 1 more (16.67%) are unknown" in printed[2]
    lines = output.read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["\\data\\", "ngram 1=9", "ngram 2=13"]


@pytest.mark.parametrize(
    ("options", "unigrams"),
    [
        (["--unit", "letters"], {"a", "|", "t"}),
        (["--unit", "phones"], {"The", "cat,", "sat."}),
        (["--as-is"], {"The", "cat,", "sat."}),
        ([], {"the", "cat", "sat"}),
    ],
)
def test_units_and_form_of_the_text(files, options, unigrams, capsys):
    arguments = ["--text", str(files / "text.txt"), "--order", "2", "--output", str(files / "lm.arpa")]
    assert main(["lm", *arguments, *options]) == 0
    lines = (files / "lm.arpa").read_text(encoding="utf-8").split("\\2-grams:")[0].splitlines()
    assert unigrams <= {line.split("\t")[1] for line in lines if "\t" in line}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "nowhere.txt"], "There is no text file nowhere.txt"),
        (["--prune", "1", "1"], "0 for words, then non-decreasing"),
        (["--order", "30"], "lower the order"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(files, arguments, message, capsys):
    given = ["--text", str(files / "text.txt"), "--output", str(files / "lm.arpa"), *arguments]
    assert main(["lm", *given]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]

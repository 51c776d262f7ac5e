import json

import pytest
from transformers import AutoConfig

from hf_ssl.cli.main import main
from hf_ssl.data.transcripts import TranscriptForm
from tests.evaluation.recognition.causal_lms import make_causal_lm, make_tokenizer
from tests.evaluation.recognition.recognisers import save_recogniser, write_sample

TEXT = "zero\nuno due\ntre\nl'orario\nè mezzogiorno\nfebbraio\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("data") / "speech", {"train": 2, "validation": 3, "test": 3}).path


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for unit in ("words", "letters"):
        arguments = ["--unit", unit, "--order", "2", "--output", str(folder / f"{unit}.arpa")]
        assert main(["lm", "--text", str(folder / "text.txt"), *arguments]) == 0
    return folder


@pytest.fixture
def model(tmp_path):
    return str(save_recogniser(tmp_path / "model"))


def recognise(capsys, *arguments):
    """Exit code, standard output and the last line of standard error of the command."""
    code = main(["recognise", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()[-1:]


def test_a_published_model_is_decoded_greedily(model, data, tmp_path, capsys):
    output = tmp_path / "results.json"
    code, printed, _ = recognise(capsys, model, "--data", data, "--output", str(output))
    assert code == 0
    lines = printed.splitlines()
    assert lines[0] == "| decoding | WER | CER |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| greedy", ""]
    values = json.loads(output.read_text(encoding="utf-8"))
    assert (values["split"], values["num_recordings"]) == ("test", 3)
    assert len((tmp_path / "results.transcripts.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_tuning_is_kept_beside_the_model_and_used_again(model, data, lm, tmp_path, capsys):
    pytest.importorskip("flashlight.lib.text")
    tuning = ["--decoder", "words", "--lm", str(lm / "words.arpa"), "--tune", "validation", "--trials", "3"]
    code, tuned, _ = recognise(capsys, model, "--data", data, *tuning)
    assert code == 0
    assert tuned.startswith("Tuned on validation (3 recordings, 5 trials): WER ")
    kept = json.loads((tmp_path / "model" / "decoding.json").read_text(encoding="utf-8"))
    assert kept["tuned_on"] == {"data": data, "split": "validation", "recordings": 3, "seed": 0}
    assert kept["decoder"] == "words"
    best = min(kept["trials"], key=lambda trial: (trial["wer"], trial["cer"], trial["beam_size"]))
    assert kept["weights"] == {name: best[name] for name in ("ngram", "word", "neural")}
    assert kept["validation"] == {"wer": best["wer"], "cer": best["cer"]}
    code, again, _ = recognise(capsys, model, "--data", data)
    assert code == 0
    assert again in tuned
    # What the command line says wins.
    code, other, _ = recognise(capsys, model, "--data", data, "--lm-weight", "0.25", "--beam", "7")
    assert "n-gram words.arpa × 0.25, word score" in other
    assert "beam 7 |" in other
    code, greedy, _ = recognise(capsys, model, "--data", data, "--decoder", "greedy")
    assert "words.arpa" not in greedy


def test_words_with_letters_that_the_model_lacks_are_reported(model, data, tmp_path, caplog, capsys):
    pytest.importorskip("flashlight.lib.text")
    (tmp_path / "text.txt").write_text("uno due\nweekend\nkiwi uno\n", encoding="utf-8")
    assert (
        main(["lm", "--text", str(tmp_path / "text.txt"), "--order", "2", "--output", str(tmp_path / "lm.arpa")]) == 0
    )
    options = ["--decoder", "words", "--lm", str(tmp_path / "lm.arpa"), "--output", str(tmp_path / "results.json")]
    code, _, _ = recognise(capsys, model, "--data", data, *options)
    assert code == 0
    values = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (values["lexicon_words"], values["words_left_out"]) == (2, ["weekend", "kiwi"])
    assert "2 words cannot be found, since the model lacks letters of theirs: weekend, kiwi" in caplog.text


def test_rescoring(model, data, lm, tmp_path, capsys):
    pytest.importorskip("flashlight.lib.text")
    causal = tmp_path / "causal"
    make_causal_lm(max_length=64).save_pretrained(causal)
    make_tokenizer(max_length=64, eos_token="<end>").save_pretrained(causal)
    options = ["--decoder", "words", "--lm", str(lm / "words.arpa"), "--rescore", str(causal), "--n-best", "5"]
    code, printed, _ = recognise(capsys, model, "--data", data, *options, "--neural-weight", "0.75")
    assert code == 0
    assert "| words: n-gram words.arpa × 0.869, causal × 0.75, word score -1, beam 100 | " in printed
    code, tuned, _ = recognise(capsys, model, "--data", data, *options, "--tune", "validation", "--trials", "2")
    assert code == 0
    assert "(3 recordings, 14 trials)" in tuned  # two settings, two more beams, five times as many orders
    kept = json.loads((tmp_path / "model" / "decoding.json").read_text(encoding="utf-8"))
    assert (kept["rescore"], kept["beam"]["num_best"]) == (str(causal), 5)


def test_letters_and_another_split(model, data, lm, capsys):
    pytest.importorskip("flashlight.lib.text")
    options = ["--split", "validation", "--decoder", "letters", "--lm", str(lm / "letters.arpa")]
    code, printed, _ = recognise(capsys, model, "--data", data, *options)
    assert code == 0
    assert "| letters: n-gram letters.arpa × 0.869, word score -1, beam 100 | " in printed
    assert ", validation: 3 recordings" in printed


def test_a_model_fine_tuned_here_says_what_its_transcripts_are(tmp_path, data, capsys):
    folder = save_recogniser(tmp_path / "model")
    config = AutoConfig.from_pretrained(folder)
    config.update({"finetuning_task": "ctc", "text_unit": "characters", "normalise_text": False})
    config.save_pretrained(folder)
    output = tmp_path / "results.json"
    code, _, _ = recognise(capsys, str(folder), "--data", data, "--output", str(output))
    assert code == 0
    rows = (tmp_path / "results.transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    references = [json.loads(row)["reference"] for row in rows]
    assert any(reference != reference.lower() or reference.endswith(".") for reference in references)


def test_phones_have_a_phone_error_rate(tmp_path, data, capsys):
    folder = save_recogniser(tmp_path / "model", form=TranscriptForm(unit="phones"))
    code, printed, _ = recognise(capsys, str(folder), "--data", data)
    assert code == 0
    assert printed.splitlines()[0] == "| decoding | PER |"
    assert " phones. Per cent;" in printed
    options = ["--decoder", "words", "--lexicon", str(tmp_path / "lexicon.txt")]
    (tmp_path / "lexicon.txt").write_text("ab quel vitz\n")
    code, _, complaint = recognise(capsys, str(folder), "--data", data, *options)
    assert (code, "no token between words" in complaint[0]) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune", "test"], "would choose settings on what is tested"),
        (["--tune", "validation", "--split", "validation"], "would choose settings on what is tested"),
        (["--tune", "validation"], "Greedy decoding has nothing to tune"),
        (["--split", "tests"], "did you mean 'test'"),
        (["--decoder", "words"], "has to know which there are"),
        (["--decoder", "words", "--lm", "nowhere.arpa"], "There is no language model"),
        (["--decoder", "greedy", "--lm", "nowhere.arpa"], "greedy decoder reads no language model"),
        (["data.text_colum=x"], "'text_column'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(model, data, arguments, message, capsys):
    code, _, complaint = recognise(capsys, model, "--data", data, *arguments)
    assert code == 2
    assert message in complaint[0]


def test_models_of_something_else(tmp_path, data, capsys):
    code, _, complaint = recognise(capsys, str(tmp_path / "nowhere"), "--data", data)
    assert (code, "No CTC model can be loaded" in complaint[0]) == (2, True)
    folder = save_recogniser(tmp_path / "model")
    config = AutoConfig.from_pretrained(folder)
    config.update({"finetuning_task": "audio-classification"})
    config.save_pretrained(folder)
    code, _, complaint = recognise(capsys, str(folder), "--data", data)
    assert (code, "was fine-tuned for audio-classification" in complaint[0]) == (2, True)

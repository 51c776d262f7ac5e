"""From what a model hears to error rates: settings, tuning and results, on synthetic emissions."""

import json

import numpy as np
import pytest

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.greedy import GreedyDecoder
from hf_ssl.evaluation.recognition.hypothesis import Beam, Weights
from hf_ssl.evaluation.recognition.recognise import RecognitionResult, transcribe, transcribe_greedily
from hf_ssl.evaluation.recognition.recogniser import HeardRecordings
from hf_ssl.evaluation.recognition.settings import DecodingSettings
from hf_ssl.evaluation.recognition.tuning import best_of, choose
from tests.evaluation.recognition.ctc_by_hand import language_model, letters, peaked_log_probs

SENTENCES = ["a bad cab", "a cab", "add a bead", "a bead", "be a dad", "a bad dad", "dad a cab"]
TOKENIZER, VOCABULARY = letters(" ".join(SENTENCES))


class Listener:
    """What decoding asks of a recogniser: how it writes, and how that is scored."""

    vocabulary, form, metrics = VOCABULARY, VOCABULARY.form, ("wer", "cer")


def heard(sentences: list[str], margin: float, seed: int) -> HeardRecordings:
    """Recordings as a poor model hears them: the right token of each frame stands out by `margin` nats."""
    log_probs = []
    for number, sentence in enumerate(sentences):
        path = [frame for token in TOKENIZER(sentence)["input_ids"] for frame in (token, 0)]
        log_probs.append(peaked_log_probs(path, len(VOCABULARY.tokens), margin, seed=seed + number))
    names = [f"{number}.wav" for number in range(len(sentences))]
    return HeardRecordings(names, [len(values) * 0.02 for values in log_probs], sentences, log_probs)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    for unit in ("words", "letters"):
        model, _ = language_model(SENTENCES, order=3, unit=unit)
        model.save(folder / f"{unit}.arpa")
    return folder


@pytest.mark.parametrize("decoder", ["words", "letters"])
def test_a_tuned_decoder_with_a_language_model_beats_greedy_decoding(lm, decoder):
    pytest.importorskip("flashlight.lib.text")
    validation, test = heard(SENTENCES * 2, 3.0, seed=0), heard(SENTENCES * 2, 3.0, seed=100)
    untuned = DecodingSettings(decoder, lm=str(lm / f"{decoder}.arpa"))
    settings, trials = choose(untuned, Listener, validation, num_trials=8)
    assert len(trials) == 10  # the default size of the beam is not tried twice
    assert best_of(trials).weights == settings.weights
    assert settings.weights != DecodingSettings().weights or best_of(trials) == trials[0]
    chosen, lexicon = settings.make_decoder(VOCABULARY)
    assert (lexicon is not None) == (decoder == "words")
    decoded = transcribe(Listener, test, settings, chosen)
    greedy = transcribe_greedily(Listener, test)
    assert decoded.counts["wer"].value < 0.7 * greedy.counts["wer"].value
    again, _ = choose(untuned, Listener, validation, num_trials=8)
    assert again == settings


class KnowsTheText:
    """A causal language model that finds what was said probable, and everything else not."""

    def log_probabilities(self, texts: list[str]) -> list[float]:
        return [-1.0 if text in SENTENCES else -20.0 for text in texts]


def test_rescoring_is_tuned_and_used(tmp_path):
    """A lexicon alone tells words, but not which follow each other."""
    pytest.importorskip("flashlight.lib.text")
    words = sorted(set(" ".join(SENTENCES).split()))
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)}\n" for word in words))
    validation = heard(SENTENCES * 2, 1.5, seed=0)
    settings = DecodingSettings(
        "words", lexicon=str(tmp_path / "lexicon.txt"), rescore="known", beam=Beam(num_best=30)
    )
    settings, trials = choose(settings, Listener, validation, KnowsTheText(), num_trials=5)
    assert len(trials) == 5 + 2 + 25
    assert all(trial.weights.neural == 0.0 for trial in trials[:7])
    assert {trial.weights.ngram for trial in trials} == {settings.weights.ngram}  # there is none to weigh
    assert settings.rescoring == best_of(trials).weights
    assert settings.rescoring.neural > 0
    assert settings.beam.num_best == 30
    decoder, _ = settings.make_decoder(VOCABULARY)
    with_lm = transcribe(Listener, validation, settings, decoder, KnowsTheText())
    without = transcribe(Listener, validation, settings, decoder)
    assert without.counts["wer"].value == pytest.approx(best_of(trials[:7]).rates["wer"])
    assert with_lm.counts["wer"].value == pytest.approx(best_of(trials).rates["wer"])
    assert with_lm.counts["wer"].value < without.counts["wer"].value
    assert {h.neural for h in with_lm.transcripts} <= {-1.0, -20.0}


def test_recordings_without_transcript_are_recognised_but_not_scored():
    recordings = heard(["a cab", "a bad dad"], 30.0, seed=0)
    recordings.references[0] = ""
    split = transcribe_greedily(Listener, recordings)
    assert [h.text for h in split.transcripts] == ["a cab", "a bad dad"]
    assert (split.counts["wer"].errors, split.counts["wer"].units) == ([0], [3])


def test_without_any_reference_the_transcripts_are_the_result(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    recordings = heard(["a cab", "a bad dad"], 30.0, seed=0)
    recordings.references[:] = ["", ""]
    split = transcribe_greedily(Listener, recordings)
    assert split.counts == {}
    result = RecognitionResult("runs/ctc", "my_data", "test", recordings, split)
    assert result.to_markdown() == "0.wav: a cab\n1.wav: a bad dad"
    rows = [json.loads(line) for line in result.save(tmp_path / "results.json").read_text().splitlines()]
    assert [row["greedy"] for row in rows] == ["a cab", "a bad dad"]
    with pytest.raises(InputError, match="No recording of the split has a transcript"):
        choose(DecodingSettings("letters"), Listener, recordings)


def test_the_result_is_written_and_printed(lm, tmp_path):
    pytest.importorskip("flashlight.lib.text")
    recordings = heard(["a cab", "a bad dad", "be a dad"], 2.0, seed=5)
    recordings.references[1] = ""
    settings = DecodingSettings("words", lm=str(lm / "words.arpa"), weights=Weights(0.5, -1.0))
    decoder, _ = settings.make_decoder(VOCABULARY)
    result = RecognitionResult("runs/ctc", "my_data", "test", recordings, transcribe_greedily(Listener, recordings))
    result.decoded = transcribe(Listener, recordings, settings, decoder)
    result.facts = {"command": "hf-ssl recognise"}
    transcripts = result.save(tmp_path / "out" / "results.json")
    values = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (values["num_recordings"], values["num_scored"], values["command"]) == (3, 2, "hf-ssl recognise")
    greedy, words = values["systems"]
    assert words["units"] == {"wer": 5, "cer": 13}
    assert words["rates"]["wer"]["value"] == words["errors"]["wer"] / 5
    assert words["rates"]["wer"]["low"] <= words["rates"]["wer"]["value"] <= words["rates"]["wer"]["high"]
    difference = words["rates"]["wer"]["value"] - greedy["rates"]["wer"]["value"]
    assert words["less_than_greedy"]["wer"]["value"] == pytest.approx(difference)
    assert words["settings"]["weights"] == {"ngram": 0.5, "word": -1.0, "neural": 0.0}
    assert values["versions"]["flashlight-text"]
    rows = [json.loads(line) for line in transcripts.read_text(encoding="utf-8").splitlines()]
    assert [row["recording"] for row in rows] == ["0.wav", "1.wav", "2.wav"]
    assert [row["words"] for row in rows] == [h.text for h in result.decoded.transcripts]
    assert [row["reference"] for row in rows] == ["a cab", "", "be a dad"]
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| decoding | WER | CER | WER less greedy's |"
    assert lines[2].startswith(f"| greedy | {100 * greedy['rates']['wer']['value']:.1f} [")
    assert lines[3].startswith("| words: n-gram words.arpa × 0.5, word score -1, beam 100 | ")
    assert "2 recordings, 5 words" in lines[-1]
    assert "1 more have no transcript" in lines[-1]


def test_settings_are_kept_in_a_file(lm, tmp_path):
    settings = DecodingSettings(
        "words",
        lm="lm.arpa",
        rescore="gpt2",
        weights=Weights(1.25, -2.0),
        beam=Beam(25),
        rescoring=Weights(1.0, -1.0, 0.5),
    )
    settings.save(tmp_path / "decoding.json", validation={"wer": 0.25})
    assert DecodingSettings.load(tmp_path / "decoding.json") == settings
    assert json.loads((tmp_path / "decoding.json").read_text())["validation"] == {"wer": 0.25}
    (tmp_path / "decoding.json").write_text('{"decoder": "words"}')
    with pytest.raises(InputError, match=r"decoding\.json holds no settings"):
        DecodingSettings.load(tmp_path / "decoding.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder": "word"}, "did you mean 'words'"),
        ({"decoder": "greedy", "lm": "lm.arpa"}, "greedy decoder reads no language model"),
        ({"decoder": "greedy", "rescore": "gpt2"}, "greedy decoder reads no language model"),
        ({"decoder": "letters", "lexicon": "words.txt"}, "knows no words"),
        ({"decoder": "words"}, "has to know which there are"),
    ],
)
def test_settings_that_do_not_go_together(values, message):
    with pytest.raises(InputError, match=message):
        DecodingSettings(**values)


def test_a_language_model_of_words_is_none_of_letters(lm):
    pytest.importorskip("flashlight.lib.text")
    with pytest.raises(InputError, match=r"words\.arpa lacks 4 of the model's 5 letters .*--unit letters"):
        DecodingSettings("letters", lm=str(lm / "words.arpa")).make_decoder(VOCABULARY)


def test_greedy_decoding_has_nothing_to_tune():
    with pytest.raises(InputError, match="nothing to tune"):
        choose(DecodingSettings(), Listener, heard(["a cab"], 1.0, seed=0))
    decoder, lexicon = DecodingSettings().make_decoder(VOCABULARY)
    assert isinstance(decoder, GreedyDecoder)
    assert lexicon is None


def test_without_flashlight_it_is_said_how_to_install_it(lm, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hf_ssl.evaluation.recognition.beam", None)
    with pytest.raises(InputError, match=r"pip install 'hf-ssl\[decoding\]'"):
        DecodingSettings("words", lm=str(lm / "words.arpa")).make_decoder(VOCABULARY)


def test_log_probabilities_of_the_recordings_are_not_changed_by_decoding(lm):
    pytest.importorskip("flashlight.lib.text")
    recordings = heard(["a cab"], 1.0, seed=0)
    before = recordings.log_probs[0].copy()
    for settings in (
        DecodingSettings(),
        DecodingSettings("letters"),
        DecodingSettings("words", lm=str(lm / "words.arpa")),
    ):
        settings.make_decoder(VOCABULARY)[0].decode(recordings.log_probs[0])
    np.testing.assert_array_equal(recordings.log_probs[0], before)

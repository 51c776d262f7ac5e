"""Rounds of a recogniser that hardly learns anything, so that it writes letters at random instead of nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from datasets import load_dataset

from hf_ssl.cli.main import main
from hf_ssl.cli.selftrain import read_self_training
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from hf_ssl.trainers.self_training import self_train
from tests.tiny_encoders import save_speech_encoder
from tests.trainers.comparing import assert_identical, weights


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_speech_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Twelve recordings as files, without transcripts."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = load_splits(SpeechDataArguments(path="sample:speech"), "speech")["train"].select(range(100, 112))
    for number, row in enumerate(rows):
        soundfile.write(folder / f"{number:02}.wav", decode_audio(row["audio"], 16_000), 16_000)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A few short recordings with transcripts, in three splits."""
    folder = tmp_path_factory.mktemp("labelled")
    for name, split in load_splits(SpeechDataArguments(path="sample:speech"), "speech").items():
        short = [row for row, text in enumerate(split["text"]) if 3 <= len(text) <= 12]
        rows = split.select(short[:10]).select_columns(["audio", "text"])
        rows.to_parquet(folder / f"{name}.parquet")
    return folder


def settings(encoder, labelled, recordings, output, **more):
    values = {
        "model.encoder": encoder,
        "model.task": "ctc",
        "data.path": labelled,
        "data.on_error": "skip",
        "unlabelled.path": recordings,
        "unlabelled.validation_split": "null",
        "training.output_dir": output,
        "training.max_steps": 1,
        "training.learning_rate": 1e-9,
        "training.per_device_eval_batch_size": 64,
        "training.save_strategy": "no",
        "training.report_to": "none",
        "training.use_cpu": "true",
        "self_training.rounds": 2,
    }
    return [f"{key}={value}" for key, value in (values | more).items()]


@pytest.fixture(scope="module")
def finished(encoder, labelled, recordings, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("selftrained") / "run"
    self_train(read_self_training(None, settings(encoder, labelled, recordings, output)), command="hf-ssl selftrain")
    return output


def transcripts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "pseudo_labels.jsonl").read_text().splitlines()]


def test_a_round_learns_from_the_labelled_and_the_kept(finished, labelled):
    splits = load_splits(SpeechDataArguments(path=str(labelled)), "speech")
    for number in (1, 2):
        folder = finished / f"round-{number}"
        found = transcripts(folder)
        kept = [row for row in found if row["kept"]]
        assert len(found) == 12
        assert 0 < len(kept) < 12
        assert all(row["score"] >= 0 for row in kept)
        data = load_dataset("parquet", data_dir=str(folder / "data"))
        assert data["train"]["text"] == [*splits["train"]["text"], *(row["text"] for row in kept)]
        assert len(data["test"]) == len(splits["test"])
        report = json.loads((folder / "pseudo_labels.json").read_text())
        assert report["num_kept"] == len(kept)
        assert 0 < report["hours_kept"] < report["hours"]


def test_the_kept_recordings_are_those_that_were_transcribed(finished, recordings):
    kept = [row["recording"] for row in transcripts(finished / "round-1") if row["kept"]]
    train = load_splits(SpeechDataArguments(path=str(finished / "round-1" / "data")), "speech")["train"]
    for name, row in zip(kept, list(train)[10:], strict=True):
        expected = decode_audio({"bytes": None, "path": str(recordings / Path(name).name)}, 16_000)
        assert (decode_audio(row["audio"], 16_000) == expected).all()


def test_every_round_is_a_recogniser_and_is_reported(finished, labelled, capsys):
    report = json.loads((finished / "report.json").read_text())
    assert [row["round"] for row in report] == [0, 1, 2]
    assert all("cer" in row["test"] and "wer" in row["validation"] for row in report)
    assert main(["recognise", str(finished / "round-2"), "--data", str(labelled), "--split", "validation"]) == 0
    assert "CER" in capsys.readouterr().out


def test_stopped_anywhere_it_goes_on_to_the_same_end(finished, encoder, labelled, recordings, tmp_path):
    output = tmp_path / "run"
    run = read_self_training(None, settings(encoder, labelled, recordings, output))
    self_train(replace(run, self_training=replace(run.self_training, rounds=1)), command="", resume=True)
    (output / "round-1" / "metrics.json").unlink()  # stopped while it was training
    self_train(run, command="", resume=True)
    for number in (1, 2):
        assert transcripts(output / f"round-{number}") == transcripts(finished / f"round-{number}")
    assert_identical(weights(output / "round-2"), weights(finished / "round-2"))


def test_a_folder_is_not_written_over(finished, encoder, labelled, recordings):
    with pytest.raises(InputError, match="already holds round-0; add --resume"):
        self_train(read_self_training(None, settings(encoder, labelled, recordings, finished)), command="")
    other = settings(encoder, labelled, recordings, finished, **{"self_training.min_score": 1})
    with pytest.raises(InputError, match="made with min_score 0.0, not 1"):
        self_train(read_self_training(None, other), command="", resume=True)


def test_too_strict_a_filter_is_told(encoder, labelled, recordings, tmp_path):
    strict = settings(encoder, labelled, recordings, tmp_path / "run", **{"self_training.min_score": 99})
    with pytest.raises(InputError, match=r"None of the 12 transcripts .* is kept .*self_training.min_score"):
        self_train(read_self_training(None, strict), command="")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data.validation_split": "null"}, "has no validation recordings"),
        ({"unlabelled.path": "/nowhere"}, "no file or folder '/nowhere'"),
    ],
)
def test_what_later_rounds_need_is_asked_for_before_the_first(encoder, labelled, recordings, tmp_path, more, message):
    run = read_self_training(None, settings(encoder, labelled, recordings, tmp_path / "run", **more))
    with pytest.raises(InputError, match=message):
        self_train(run, command="")
    assert not (tmp_path / "run").exists()


def test_the_command_prints_the_rounds(encoder, labelled, recordings, tmp_path, capsys):
    more = {"self_training.rounds": 1, "self_training.min_score": "null"}
    assert main(["selftrain", *settings(encoder, labelled, recordings, tmp_path / "run", **more)]) == 0
    printed = capsys.readouterr().out
    assert "| round | pseudo-labelled | kept | WER, validation |" in printed
    assert f"hf-ssl recognise {tmp_path / 'run' / 'round-1'}" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"unlabelled.path": "null"}, "add unlabelled.path"),
        ({"self_training.rounds": 0}, "rounds is 0"),
        ({"self_training.decoder": "word"}, "did you mean 'words'"),
        ({"self_training.decoder": "words"}, "give a language model"),
        ({"self_training.decoder": "words", "self_training.lm": "no.arpa"}, "no language model no.arpa"),
        ({"model.task": "audio-classification"}, "model.task=ctc"),
    ],
)
def test_bad_settings_are_refused(encoder, labelled, recordings, tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        read_self_training(None, settings(encoder, labelled, recordings, tmp_path, **more))

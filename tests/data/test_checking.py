import logging
import wave

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from PIL import Image

from hf_ssl.data import checking, decoding
from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.checking import drop_broken
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def images(tmp_path):
    """Six good images, one truncated, one empty and one that is none."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for number in range(6):
        Image.fromarray(noise).save(tmp_path / f"good{number}.png")
    content = (tmp_path / "good0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no pixels")
    return tmp_path


@pytest.fixture
def clips(tmp_path):
    """Three good clips, one with NaN, one too short, one without samples, one empty and one that is none."""
    for number in range(3):
        soundfile.write(tmp_path / f"good{number}.wav", np.full(8_000 * (number + 1), 0.1), 8_000)
    soundfile.write(tmp_path / "nan.wav", np.full(8_000, np.nan), 8_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", np.full(800, 0.1), 8_000)
    with wave.open(str(tmp_path / "zero.wav"), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no samples")
    return tmp_path


def load(args, modality):
    return load_splits(args, modality)["train"]


def image_args(folder, **options):
    return ImageDataArguments(path=str(folder), validation_split=None, **options)


def speech_args(folder, **options):
    return SpeechDataArguments(path=str(folder), validation_split=None, **options)


def test_raise_names_the_first_and_counts_all(images):
    args = image_args(images)
    with pytest.raises(InputError) as raised:
        drop_broken(load(args, "vision"), "vision", args)
    message = str(raised.value)
    assert any(name in message for name in ("cut.png", "empty.png", "text.png"))
    assert "(the first of 3 broken items among 9), or set data.on_error=skip to leave such out." in message


def test_a_single_broken_item(images):
    for name in ("cut.png", "text.png"):
        (images / name).unlink()
    args = image_args(images)
    with pytest.raises(InputError, match=r"empty\.png is empty .*the only broken item among 7"):
        drop_broken(load(args, "vision"), "vision", args)


def test_skip_leaves_out_counts_and_says_so(images, caplog):
    args = image_args(images, on_error="skip")
    with caplog.at_level(logging.WARNING, logger=checking.__name__):
        kept = drop_broken(load(args, "vision"), "vision", args)
    assert sorted(kept["file"]) == [f"good{number}.png" for number in range(6)]
    assert caplog.messages[0].startswith("Left out 3 of 9 items (data.on_error=skip); the first: ")


def test_recordings(clips, caplog):
    args = speech_args(clips, on_error="skip", min_seconds=0.5)
    decoding.report_resampling.cache_clear()
    with caplog.at_level(logging.WARNING):
        kept = drop_broken(load(args, "speech"), "speech", args)
    lengths = dict(zip(kept["file"], kept["length"], strict=True))
    assert lengths == {"good0.wav": 1.0, "good1.wav": 2.0, "good2.wav": 3.0}
    assert any("Left out 5 of 8" in message for message in caplog.messages)
    assert caplog.messages.count("Recordings at 8000 Hz are resampled to 16000 Hz.") == 1


def test_too_short_names_its_length(clips):
    for name in ("nan.wav", "zero.wav", "empty.wav", "text.wav"):
        (clips / name).unlink()
    args = speech_args(clips, min_seconds=0.5)
    with pytest.raises(InputError, match=r"short\.wav lasts 0\.10 s, less than data\.min_seconds=0\.5"):
        drop_broken(load(args, "speech"), "speech", args)
    args = speech_args(clips, min_seconds=0.05)
    assert len(drop_broken(load(args, "speech"), "speech", args)) == 4


def test_empty_texts(tmp_path, caplog):
    for name, text in (("full", "words"), ("blank", " \n\n"), ("none", "")):
        (tmp_path / f"{name}.txt").write_text(text)
    args = TextDataArguments(path=str(tmp_path), validation_split=None)
    with pytest.raises(InputError, match=r"(blank|none)\.txt has no text; .*first of 2 broken items among 3"):
        drop_broken(load(args, "text"), "text", args)
    args.on_error = "skip"
    assert drop_broken(load(args, "text"), "text", args)["file"][:] == ["full.txt"]


def test_empty_rows_are_named_by_number():
    dataset = Dataset.from_dict({"text": ["a", None, "b", ""]})
    with pytest.raises(InputError, match=r"Row 1 has no text; .*first of 2 broken items among 4"):
        drop_broken(dataset, "text", TextDataArguments(path="rows"))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_nothing_left(images, on_error):
    for path in images.glob("good*"):
        path.unlink()
    args = image_args(images, on_error=on_error)
    with pytest.raises(InputError, match="None of the 3 items can be used; of the first: "):
        drop_broken(load(args, "vision"), "vision", args)


def test_good_data_pass_unchanged(images):
    for name in ("cut.png", "empty.png", "text.png"):
        (images / name).unlink()
    args = image_args(images)
    dataset = load(args, "vision")
    assert drop_broken(dataset, "vision", args).to_list() == dataset.to_list()


def test_the_pass_is_cached_until_a_file_changes(images, monkeypatch):
    opened = []
    decode = checking.decode_image
    monkeypatch.setattr(checking, "decode_image", lambda item: opened.append(item["path"]) or decode(item))
    args = image_args(images, on_error="skip")
    drop_broken(load(args, "vision"), "vision", args)
    assert len({path for path in opened if "good" in path}) == 6
    opened.clear()
    drop_broken(load(args, "vision"), "vision", args)
    assert not [path for path in opened if "good" in path]
    (images / "good0.png").write_text("broken now")
    assert len(drop_broken(load(args, "vision"), "vision", args)) == 5


def test_a_repaired_file_of_a_table_is_seen(images, monkeypatch):
    (images / "list.csv").write_text("image\ngood0.png\nempty.png\n")
    args = ImageDataArguments(path=str(images / "list.csv"), validation_split=None)
    with pytest.raises(InputError, match=r"empty\.png is empty"):
        drop_broken(load(args, "vision"), "vision", args)
    (images / "empty.png").write_bytes((images / "good0.png").read_bytes())
    assert len(drop_broken(load(args, "vision"), "vision", args)) == 2


def test_several_processes(clips):
    args = speech_args(clips, on_error="skip", min_seconds=0.5, num_proc=2)
    kept = drop_broken(load(args, "speech"), "speech", args)
    assert dict(zip(kept["file"], kept["length"], strict=True)) == {
        "good0.wav": 1.0,
        "good1.wav": 2.0,
        "good2.wav": 3.0,
    }


def test_lengths_of_held_out_rows_belong_to_them(clips):
    for name in ("nan.wav", "zero.wav", "empty.wav", "text.wav", "short.wav"):
        (clips / name).unlink()
    (clips / "list.csv").write_text("audio,seconds\n" + "".join(f"good{n}.wav,{n + 1}\n" for n in range(3)))
    args = SpeechDataArguments(path=str(clips / "list.csv"))
    splits = load_splits(args, "speech")
    assert set(splits) == {"train", "validation"}
    for split in splits.values():
        checked = drop_broken(split, "speech", args)
        assert checked["length"][:] == checked["seconds"][:]


class TestStreams:
    @pytest.fixture
    def table(self, clips):
        names = ["good0.wav", "nan.wav", "good1.wav"]
        (clips / "list.csv").write_text("audio\n" + "".join(f"{name}\n" for name in names))
        return clips / "list.csv"

    def test_skip(self, table, caplog):
        args = speech_args(table, streaming=True, on_error="skip")
        with caplog.at_level(logging.WARNING, logger=checking.__name__):
            rows = list(drop_broken(load(args, "speech"), "speech", args))
        assert [row["length"] for row in rows] == [1.0, 2.0]
        assert set(rows[0]) == {"audio", "length"}
        assert any("Left out item 1 of the stream" in message and "nan.wav" in message for message in caplog.messages)

    def test_raise(self, table):
        args = speech_args(table, streaming=True)
        stream = iter(drop_broken(load(args, "speech"), "speech", args))
        next(stream)
        with pytest.raises(InputError, match=r"nan\.wav holds NaN.*data\.on_error=skip"):
            list(stream)

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Image, IterableDatasetDict
from PIL import Image as PILImage

from hf_ssl.data import loading
from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.decoding import decode_audio, decode_image
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from tests.hub_server import serve


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def images(tmp_path):
    """Thirty images in folders of two classes."""
    folder = tmp_path / "images"
    for number in range(30):
        path = folder / ("odd" if number % 2 else "even") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (3, 3), (number, 0, 0)).save(path)
    return folder


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", np.full(800 + number, 0.1), 8_000)
    return folder


class TestSamples:
    @pytest.mark.parametrize(
        ("name", "modality", "make", "label"),
        [
            ("emoji", "vision", ImageDataArguments, "category"),
            ("speech", "speech", SpeechDataArguments, "language"),
            ("glosses", "text", TextDataArguments, "label"),
            ("wordnet_documents", "text", TextDataArguments, None),
        ],
    )
    def test_all_splits_load(self, name, modality, make, label):
        splits = load_splits(make(path=f"sample:{name}", label_column=label), modality)
        assert isinstance(splits, DatasetDict)
        assert set(splits) == {"train", "validation", "test"}
        column = {"vision": "image", "speech": "audio", "text": "text"}[modality]
        for split in splits.values():
            assert column in split.column_names
            assert ("label" in split.column_names) == (label is not None)
            if label is not None:
                assert split.features["label"] == splits["train"].features["label"]

    def test_image_and_audio_are_files(self):
        emoji = load_splits(ImageDataArguments(path="sample:emoji"), "vision")["test"]
        assert emoji.features["image"] == Image(decode=False)
        assert decode_image(emoji[0]["image"]).size == (32, 32)
        speech = load_splits(SpeechDataArguments(path="sample:speech"), "speech")["test"]
        assert speech.features["audio"] == Audio(decode=False)
        assert len(decode_audio(speech[0]["audio"], 8_000)) > 3_000

    @pytest.mark.parametrize(("name", "nearest"), [("emojis", "emoji"), ("gloss", "glosses")])
    def test_unknown_sample(self, name, nearest):
        with pytest.raises(InputError, match=f"no sample '{name}'; did you mean '{nearest}'"):
            load_splits(ImageDataArguments(path=f"sample:{name}"), "vision")

    def test_streams(self):
        speech = load_splits(SpeechDataArguments(path="sample:speech", streaming=True, label_column="group"), "speech")
        assert isinstance(speech, IterableDatasetDict)
        row = next(iter(speech["train"]))
        assert isinstance(row["label"], int)
        assert len(decode_audio(row["audio"], 8_000)) > 3_000
        images = load_splits(ImageDataArguments(path="sample:emoji", streaming=True), "vision")
        assert decode_image(next(iter(images["train"]))["image"]).size == (32, 32)


class TestFolders:
    def test_class_folders(self, images):
        splits = load_splits(ImageDataArguments(path=str(images), label_column="label"), "vision")
        assert splits["train"].features["label"] == ClassLabel(names=["even", "odd"])
        for split in splits.values():
            assert split.features["image"] == Image(decode=False)
            for row in split:
                red, _, _ = decode_image(row["image"]).getpixel((0, 0))
                assert row["label"] == red % 2

    def test_held_out_files_are_always_the_same(self, images, caplog):
        with caplog.at_level(logging.INFO, logger=loading.__name__):
            splits = load_splits(ImageDataArguments(path=str(images)), "vision")
        train, validation = set(splits["train"]["file"]), set(splits["validation"]["file"])
        assert validation
        assert not train & validation
        assert len(train | validation) == 30
        assert any(f"{len(validation)} of 30 training items are held out" in message for message in caplog.messages)
        again = load_splits(ImageDataArguments(path=str(images)), "vision")
        assert again["validation"]["file"][:] == splits["validation"]["file"][:]

    def test_nothing_is_held_out_unasked(self, images):
        splits = load_splits(ImageDataArguments(path=str(images), validation_split=None), "vision")
        assert set(splits) == {"train"}
        assert len(splits["train"]) == 30

    def test_labels_are_dropped_unless_asked_for(self, images):
        assert "label" not in load_splits(ImageDataArguments(path=str(images)), "vision")["train"].column_names

    def test_first_training_items_only(self, images):
        splits = load_splits(ImageDataArguments(path=str(images), max_train_items=5), "vision")
        everything = load_splits(ImageDataArguments(path=str(images)), "vision")
        assert splits["train"]["file"][:] == everything["train"]["file"][:5]
        assert len(splits["validation"]) == len(everything["validation"])

    def test_recordings_with_and_without_transcripts(self, clips):
        assert "text" not in load_splits(SpeechDataArguments(path=str(clips)), "speech")["train"].column_names
        lines = [f"{number}.wav\tnumber {number}\n" for number in range(12)]
        (clips / "transcripts.tsv").write_text("".join(lines))
        train = load_splits(SpeechDataArguments(path=str(clips)), "speech")["train"]
        for row in train:
            assert row["text"] == f"number {row['file'].removesuffix('.wav')}"
            assert len(decode_audio(row["audio"], 8_000)) == 800 + int(row["file"].removesuffix(".wav"))

    def test_texts(self, tmp_path):
        for number in range(10):
            (tmp_path / f"{number}.txt").write_text(f"Line one of {number}.\nLine two.\n")
        train = load_splits(TextDataArguments(path=str(tmp_path)), "text")["train"]
        assert all(text.count("\n") == 2 for text in train["text"])

    def test_another_modality(self, clips):
        with pytest.raises(InputError, match=r"holds no images .*12 \.wav"):
            load_splits(ImageDataArguments(path=str(clips)), "vision")

    def test_class_missing_in_training(self, images):
        for split, kind in (("train", "even"), ("validation", "odd")):
            (images / split).mkdir()
            (images / kind).rename(images / split / kind)
        with pytest.raises(InputError, match="split validation has 'odd' in column 'label'"):
            load_splits(ImageDataArguments(path=str(images), label_column="label"), "vision")


class TestTables:
    def test_text_file(self, tmp_path):
        path = tmp_path / "corpus.txt"
        path.write_text("\n\n".join(f"a{number}\nb" for number in range(40)))
        splits = load_splits(TextDataArguments(path=str(path)), "text")
        assert len(splits["train"]) + len(splits["validation"]) == 40
        assert splits["train"][0]["text"] == "a0\nb"

    def test_text_file_with_one_document_has_no_validation(self, tmp_path):
        (tmp_path / "one.txt").write_text("a\nb\n")
        assert set(load_splits(TextDataArguments(path=str(tmp_path / "one.txt")), "text")) == {"train"}

    @pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "json", "jsonl"])
    def test_one_table(self, tmp_path, suffix):
        data = Dataset.from_dict({"body": [f"text {row}" for row in range(20)], "kind": ["x", "y"] * 10})
        path = tmp_path / f"data.{suffix}"
        match suffix:
            case "parquet":
                data.to_parquet(path)
            case "csv" | "tsv":
                data.to_csv(path, sep="\t" if suffix == "tsv" else ",")
            case _:
                data.to_json(path)
        args = TextDataArguments(path=str(path), text_column="body", label_column="kind")
        splits = load_splits(args, "text")
        assert {tuple(row.items()) for split in splits.values() for row in split} == {
            (("text", f"text {row}"), ("label", row % 2)) for row in range(20)
        }
        assert set(splits) == {"train", "validation"}

    def test_paths_in_a_table_are_relative_to_it(self, tmp_path, clips):
        (tmp_path / "clips.csv").write_text("path\n" + "".join(f"clips/{number}.wav\n" for number in range(12)))
        args = {"path": str(tmp_path / "clips.csv"), "audio_column": "path"}
        for row in load_splits(SpeechDataArguments(**args), "speech")["train"]:
            assert 800 <= len(decode_audio(row["audio"], 8_000)) < 812
        streamed = load_splits(SpeechDataArguments(**args, streaming=True, validation_split=None), "speech")["train"]
        assert [len(decode_audio(row["audio"], 8_000)) for row in streamed] == list(range(800, 812))

    def test_folder_of_parquet_with_splits(self, tmp_path):
        for split, count in (("train", 8), ("test", 3)):
            Dataset.from_dict({"text": ["a"] * count}).to_parquet(tmp_path / f"{split}.parquet")
        splits = load_splits(TextDataArguments(path=str(tmp_path)), "text")
        assert len(splits["test"]) == 3
        assert len(splits["train"]) + len(splits["validation"]) == 8

    def test_parquet_wins_over_files_and_files_over_csv(self, tmp_path, images):
        (images / "labels.csv").write_text("anything\n1\n")
        assert "file" in load_splits(ImageDataArguments(path=str(images)), "vision")["train"].column_names
        emoji = load_splits(ImageDataArguments(path="sample:emoji"), "vision")["test"]
        emoji.select(range(4)).to_parquet(images / "train.parquet")
        train = load_splits(ImageDataArguments(path=str(images), validation_split=None), "vision")["train"]
        assert train["unified"][:] == emoji["unified"][:4]

    def test_texts_beside_tables(self, tmp_path):
        (tmp_path / "readme.txt").write_text("not the data")
        (tmp_path / "data.csv").write_text("text\na\n")
        with pytest.raises(InputError, match=r"both texts \(\.txt\) and tables \(\.csv\)"):
            load_splits(TextDataArguments(path=str(tmp_path)), "text")

    def test_held_out_of_a_stream(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loading, "STREAM_VALIDATION_ITEMS", 3)
        Dataset.from_dict({"text": [str(row) for row in range(10)]}).to_parquet(tmp_path / "a.parquet")
        splits = load_splits(TextDataArguments(path=str(tmp_path / "a.parquet"), streaming=True), "text")
        assert [row["text"] for row in splits["validation"]] == ["0", "1", "2"]
        assert [row["text"] for row in splits["train"]] == [str(row) for row in range(3, 10)]

    def test_a_column_in_the_way_gives_way(self, tmp_path):
        Dataset.from_dict({"text": ["no"] * 4, "body": ["yes"] * 4}).to_parquet(tmp_path / "a.parquet")
        train = load_splits(TextDataArguments(path=str(tmp_path / "a.parquet"), text_column="body"), "text")["train"]
        assert train.column_names == ["text"]
        assert set(train["text"]) == {"yes"}


class TestBadInput:
    @pytest.fixture
    def table(self, tmp_path):
        Dataset.from_dict({"text": ["a", "b"], "kind": ["x", "y"]}).to_parquet(tmp_path / "data.parquet")
        return str(tmp_path / "data.parquet")

    def test_missing_label_column(self, table):
        with pytest.raises(InputError, match=r"no column in .*data\.parquet 'kinds'; did you mean 'kind'"):
            load_splits(TextDataArguments(path=table, label_column="kinds"), "text")

    def test_missing_main_column(self, table):
        with pytest.raises(InputError, match="'image'; choose one of: kind, text"):
            load_splits(ImageDataArguments(path=table), "vision")

    def test_missing_transcripts_that_were_named(self, clips):
        with pytest.raises(InputError, match=r"no column in .*'words'"):
            load_splits(SpeechDataArguments(path=str(clips), text_column="words"), "speech")

    def test_column_that_holds_no_files(self, tmp_path):
        Dataset.from_dict({"audio": [1, 2]}).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(InputError, match=r"'audio' of .* not files"):
            load_splits(SpeechDataArguments(path=str(tmp_path / "a.parquet")), "speech")

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_missing_split(self, table, split):
        options = {"train_split": "train", f"{split}_split": "trian"}
        if split == "train":
            folder_with_other_splits = "sample:glosses"
            args = TextDataArguments(path=folder_with_other_splits, **options)
        else:
            args = TextDataArguments(path=table, **options)
        with pytest.raises(InputError, match=rf"data\.{split}_split\) 'trian'; did you mean 'train'"):
            load_splits(args, "text")

    def test_missing_path(self, table):
        with pytest.raises(InputError, match=r"no file or folder '.*dat\.parquet'; did you mean '.*data\.parquet'"):
            load_splits(TextDataArguments(path=table.replace("data.", "dat.")), "text")
        with pytest.raises(InputError, match=r"There is no file or folder '/nowhere/at/all'"):
            load_splits(TextDataArguments(path="/nowhere/at/all"), "text")

    def test_file_of_unknown_kind(self, tmp_path):
        (tmp_path / "notes.docx").write_text("text")
        with pytest.raises(InputError, match=r"notes\.docx is no table \(\.parquet, .* no text"):
            load_splits(TextDataArguments(path=str(tmp_path / "notes.docx")), "text")

    def test_damaged_table(self, tmp_path):
        (tmp_path / "data.parquet").write_text("no parquet")
        with pytest.raises(InputError, match=r"data\.parquet' cannot be loaded \(.*\); check data\.path"):
            load_splits(TextDataArguments(path=str(tmp_path / "data.parquet")), "text")

    def test_nothing_in_it(self, tmp_path):
        (tmp_path / "blank.txt").write_text("\n\n")
        with pytest.raises(InputError, match=r"blank\.txt has no training items"):
            load_splits(TextDataArguments(path=str(tmp_path / "blank.txt")), "text")
        Dataset.from_dict({"text": ["a"]}).select([]).to_parquet(tmp_path / "none.parquet")
        with pytest.raises(InputError, match=r"none\.parquet.* no data"):
            load_splits(TextDataArguments(path=str(tmp_path / "none.parquet")), "text")
        (tmp_path / "latin").mkdir()
        (tmp_path / "latin" / "a.txt").write_bytes("ü".encode("latin-1"))
        with pytest.raises(InputError, match="latin has no training items"):
            load_splits(TextDataArguments(path=str(tmp_path / "latin"), on_error="skip"), "text")

    def test_hub_that_is_away(self, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=r"'someone/something', no file or folder here, cannot be loaded"):
            load_splits(TextDataArguments(path="someone/something"), "text")


HUB_CLIENT = """
from datasets import Audio, ClassLabel, DatasetDict
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.loading import load_splits

sample = load_splits(SpeechDataArguments(path="sample:speech", label_column="group"), "speech")
few = DatasetDict({"learn": sample["train"].select(range(8)), "validation": sample["validation"].select(range(4))})
few.rename_columns({"audio": "recording", "label": "kind"}).push_to_hub("tester/prompts")
for streaming in (False, True):
    args = SpeechDataArguments(path="tester/prompts", train_split="learn", audio_column="recording",
                               label_column="kind", streaming=streaming)
    splits = load_splits(args, "speech")
    assert set(splits) == {"train", "validation"}, splits
    for name, original in (("train", few["learn"]), ("validation", few["validation"])):
        assert splits[name].features["label"] == original.features["label"]
        rows = list(splits[name])
        assert [row["audio"]["bytes"] for row in rows] == [row["audio"]["bytes"] for row in original]
        assert [row["label"] for row in rows] == original["label"][:]
        assert len(decode_audio(rows[0]["audio"], 8_000)) > 3_000
print("all loaded")
"""


@pytest.mark.slow
def test_data_set_on_the_hub(tmp_path):
    with serve() as hub:
        environment = os.environ | hub.environment(tmp_path / "home")
        client = subprocess.run(
            [sys.executable, "-c", HUB_CLIENT], env=environment, capture_output=True, text=True, timeout=120
        )
    assert client.stdout.endswith("all loaded\n"), client.stderr

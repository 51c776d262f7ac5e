import logging

import numpy as np
import pytest
import soundfile
from PIL import Image

from hf_ssl.data.folders import read_documents, read_folder
from hf_ssl.errors import InputError


def write_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(root / name)


def write_clips(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.zeros(800), 8_000)


def write_texts(root, **texts):
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text, encoding="utf-8")


def test_images_are_found_at_any_depth_and_not_opened(tmp_path):
    write_images(tmp_path, "a.png", "deep/er/b.JPG", "c.webp")
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "notes.md").write_text("no image either")
    dataset = read_folder(tmp_path, "vision")["train"]
    assert set(dataset["file"]) == {"a.png", "deep/er/b.JPG", "c.webp", "broken.png"}
    row = dataset[dataset["file"].index("a.png")]
    assert row["image"] == {"bytes": None, "path": str(tmp_path / "a.png")}
    assert "label" not in dataset.column_names


def test_class_folders_become_labels(tmp_path):
    write_images(tmp_path, "cat/1.png", "cat/more/2.png", "dog/1.png")
    dataset = read_folder(tmp_path, "vision")["train"]
    labels = dict(zip(dataset["file"], dataset["label"], strict=True))
    assert labels == {"cat/1.png": "cat", "cat/more/2.png": "cat", "dog/1.png": "dog"}


def test_folders_of_splits(tmp_path, caplog):
    write_clips(tmp_path, "train/x/1.wav", "train/y/2.flac", "dev/x/3.ogg", "test/y/4.wav", "stray.wav")
    with caplog.at_level(logging.WARNING):
        splits = read_folder(tmp_path, "speech")
    assert {name: sorted(split["file"]) for name, split in splits.items()} == {
        "train": ["train/x/1.wav", "train/y/2.flac"],
        "validation": ["dev/x/3.ogg"],
        "test": ["test/y/4.wav"],
    }
    assert splits["validation"]["label"][:] == ["x"]
    assert any("1 files outside" in message for message in caplog.messages)


def test_a_class_called_like_a_split_is_one_only_at_the_top(tmp_path):
    write_images(tmp_path, "train/test/1.png", "train/real/2.png")
    dataset = read_folder(tmp_path, "vision")["train"]
    assert set(dataset["label"]) == {"test", "real"}


def test_a_folder_without_train(tmp_path):
    write_images(tmp_path, "test/1.png")
    with pytest.raises(InputError, match="folders test but none called train"):
        read_folder(tmp_path, "vision")


def test_transcripts(tmp_path):
    write_clips(tmp_path, "1.wav", "2.wav", "3.wav")
    (tmp_path / "transcripts.tsv").write_text('1.wav\tsay "one"\n2.wav\tdue\n', encoding="utf-8")
    dataset = read_folder(tmp_path, "speech")["train"]
    assert dict(zip(dataset["file"], dataset["text"], strict=True)) == {
        "1.wav": 'say "one"',
        "2.wav": "due",
        "3.wav": None,
    }


def test_metadata_beside_the_files(tmp_path):
    write_images(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    (tmp_path / "train/metadata.csv").write_text('file_name,kind,caption\n1.png,sun,"a, b"\n2.png,moon,c\n')
    (tmp_path / "test/metadata.csv").write_text("file_name,kind,caption\n1.png,moon,d\n")
    splits = read_folder(tmp_path, "vision")
    train = {row["file"]: (row["kind"], row["caption"]) for row in splits["train"]}
    assert train == {"train/1.png": ("sun", "a, b"), "train/2.png": ("moon", "c")}
    assert splits["test"]["kind"][:] == ["moon"]


def test_metadata_that_names_a_missing_file(tmp_path):
    write_clips(tmp_path, "1.wav")
    (tmp_path / "transcripts.tsv").write_text("2.wav\ttwo\n")
    with pytest.raises(InputError, match=r"transcripts\.tsv names 2\.wav, which does not exist"):
        read_folder(tmp_path, "speech")


def test_metadata_without_file_names(tmp_path):
    write_images(tmp_path, "1.png")
    (tmp_path / "metadata.csv").write_text("name,kind\n1.png,sun\n")
    with pytest.raises(InputError, match=r"metadata\.csv has no column file_name"):
        read_folder(tmp_path, "vision")


def test_a_text_file_is_a_document_with_its_lines(tmp_path):
    write_texts(tmp_path, one="Erste Zeile.\nZweite Zeile äöü.\n", two="\ufeffwith a mark")
    dataset = read_folder(tmp_path, "text")["train"]
    assert dict(zip(dataset["file"], dataset["text"], strict=True)) == {
        "one.txt": "Erste Zeile.\nZweite Zeile äöü.\n",
        "two.txt": "with a mark",
    }


def test_text_that_is_not_utf8(tmp_path, caplog):
    write_texts(tmp_path, good="fine")
    (tmp_path / "latin.txt").write_bytes("über".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8 text \(byte 0\)"):
        read_folder(tmp_path, "text")
    with caplog.at_level(logging.WARNING):
        dataset = read_folder(tmp_path, "text", on_error="skip")["train"]
    assert dataset["file"][:] == ["good.txt"]
    assert any("latin.txt" in message for message in caplog.messages)


def test_documents_of_one_file_are_separated_by_blank_lines(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\na\nb\n\n \nc\n", encoding="utf-8")
    assert read_documents(tmp_path / "corpus.txt")["text"][:] == ["a\nb", "c"]


def test_nothing_of_the_modality(tmp_path):
    with pytest.raises(InputError, match=r"holds no images .*; it is empty"):
        read_folder(tmp_path, "vision")
    write_clips(tmp_path, "1.wav", "2.wav")
    with pytest.raises(InputError, match=r"holds no images .*; it holds 2 \.wav, so choose"):
        read_folder(tmp_path, "vision")


def test_order_and_fingerprint_follow_the_files(tmp_path):
    write_texts(tmp_path, **{f"f{number}": str(number) for number in range(20)})
    first, second = read_folder(tmp_path, "text")["train"], read_folder(tmp_path, "text")["train"]
    assert first["file"][:] == second["file"][:]
    assert first["file"][:] != sorted(first["file"])
    assert first._fingerprint == second._fingerprint
    write_texts(tmp_path, f3="changed")
    assert read_folder(tmp_path, "text")["train"]._fingerprint != first._fingerprint

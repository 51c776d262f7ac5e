import numpy as np
import pytest
import soundfile
from datasets import Dataset
from PIL import Image

from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.checking import drop_broken
from hf_ssl.data.loading import load_splits
from hf_ssl.data.usable import load_usable
from hf_ssl.errors import InputError


def recordings(folder, good, broken):
    folder.mkdir()
    for number in range(good + broken):
        samples = np.random.default_rng(number).normal(0, 0.1, 16_000 if number < good else 0)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
    return SpeechDataArguments(path=str(folder), on_error="skip")


def test_held_out_items_that_are_all_broken_leave_no_validation(tmp_path):
    args = recordings(tmp_path / "half", 6, 6)
    held_out = load_splits(args, "speech")["validation"]["file"]
    for name in held_out:
        (tmp_path / "half" / name).write_bytes(b"")
    train, validation, num_skipped = load_usable(args, "speech", seed=0)
    assert validation is None
    assert len(train) + num_skipped == 12
    with pytest.raises(InputError, match="None of the"):
        load_usable(recordings(tmp_path / "all", 0, 4), "speech", seed=0)


def test_a_cell_without_an_image_is_a_broken_item(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    (tmp_path / "images.csv").write_text("image,kind\npicture.png,a\n,b\npicture.png,c\n", encoding="utf-8")
    args = ImageDataArguments(path=str(tmp_path / "images.csv"), validation_split=None)
    with pytest.raises(InputError, match=r"Row 1 has no image; fill or remove it"):
        drop_broken(load_splits(args, "vision")["train"], "vision", args)


def test_a_column_of_numbers_holds_no_texts(tmp_path):
    Dataset.from_dict({"text": [1, 2, 3]}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="not texts; give the column with texts"):
        load_splits(TextDataArguments(path=str(tmp_path / "numbers.parquet")), "text")


@pytest.mark.parametrize("file", ["one.txt", 7, None])
def test_a_column_called_file_in_a_table_does_not_decide_what_is_held_out(tmp_path, file):
    rows = {"text": [f"text {n}" for n in range(200)], "file": [file] * 200}
    Dataset.from_dict(rows).to_parquet(tmp_path / "table.parquet")
    splits = load_splits(TextDataArguments(path=str(tmp_path / "table.parquet")), "text")
    assert 5 < len(splits["validation"]) < 50
    assert len(splits["train"]) + len(splits["validation"]) == 200


def test_a_stream_that_is_shorter_than_what_is_held_out(tmp_path):
    rows = load_splits(ImageDataArguments(path="sample:emoji", max_train_items=20), "vision")["train"]
    rows.select_columns(["image"]).to_parquet(tmp_path / "images.parquet")
    args = ImageDataArguments(path=str(tmp_path / "images.parquet"), streaming=True)
    with pytest.raises(InputError, match=r"has no training items .*set data\.streaming=false"):
        load_usable(args, "vision", seed=0)

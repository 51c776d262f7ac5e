"""The rules by which the fetched pictures become a data set; the package itself is not needed."""

import pytest
from PIL import Image

from benchmarks.openclipart import LIBRARY, MAX_OF_A_SERIES, SIDE, chosen, divide, fetch, num_pixels, series
from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.loading import load_splits


def test_a_series_differs_in_numbers_alone():
    assert series("shapes/stars/star_05pt02step.png") == series("shapes/stars/star_98pt33step.png")
    assert series("animals/dog_01.png") != series("animals/cat_01.png")
    assert series("animals/dog_01.png") != series("plants/dog_01.png")


def test_long_series_small_folders_and_folders_without_a_subject_are_left_out():
    stars = [f"shapes/star_{number}.png" for number in range(60)]
    others = [f"{folder}/{chr(97 + i)}{chr(97 + j)}.png" for folder in ("shapes", "animals", "special")
              for i in range(10) for j in range(5)]  # fmt: skip
    kept = chosen([*stars, *others, "logos/one.png"])
    assert sum("star" in name for name in kept) == MAX_OF_A_SERIES
    assert {name.partition("/")[0] for name in kept} == {"shapes", "animals"}
    assert len(kept) == MAX_OF_A_SERIES + 100


def test_a_series_and_equal_pictures_are_in_one_split():
    names = [f"a/{letter}{number}.png" for letter in "abcdefghijklmnopqrst" for number in (1, 2)]
    rows = [{"image": name[2].encode(), "subject": "a", "name": name} for name in names]
    rows.append({"image": b"d", "subject": "a", "name": "a/copy.png"})
    splits = divide(rows)
    assert set(splits) == {"train", "validation", "test"}
    of_series = [{series(row["name"]) for row in split} for split in splits.values()]
    assert sum(map(len, of_series)) == len(set.union(*of_series)) == 21
    (with_copy,) = [split for split in splits.values() if any(row["name"] == "a/copy.png" for row in split)]
    assert any(row["name"] == "a/d1.png" for row in with_copy)


@pytest.fixture
def packages(tmp_path):
    for subject, colour in (("animals", "red"), ("plants", "blue")):
        folder = tmp_path / LIBRARY.name / "usr" / "share" / "openclipart" / "png" / subject
        folder.mkdir(parents=True)
        for i in range(8):
            for j in range(5):
                picture = Image.new("RGBA", (40, 20), colour)
                picture.putpixel((i, j), (0, 0, 0, 255))
                picture.save(folder / f"{chr(97 + i)}{chr(97 + j)}.png")
    return tmp_path


def test_the_data_set_is_written_on_white_and_square(tmp_path, packages, capsys):
    fetch(tmp_path / "data", packages)
    assert "train: 56 pictures" in capsys.readouterr().out
    splits = load_splits(ImageDataArguments(path=str(tmp_path / "data"), label_column="subject"), "vision")
    assert {name: len(split) for name, split in splits.items()} == {"train": 56, "validation": 12, "test": 12}
    row = splits["train"][0]
    picture = decode_image(row["image"])
    assert picture.size == (SIDE, SIDE)
    assert picture.getpixel((0, 0)) == (255, 255, 255)  # above the picture, which is twice as wide as high
    assert picture.getpixel((60, 40)) == ((255, 0, 0) if row["label"] == 0 else (0, 0, 255))


def test_the_size_is_read_from_the_header(tmp_path):
    Image.new("1", (300, 200)).save(tmp_path / "a.png")
    assert num_pixels(tmp_path / "a.png") == 60_000

"""What the embedded files promise: their size, their classes, and that nothing leaks from one split into another."""

import io
import re
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

import hf_ssl.data.samples
from hf_ssl.data.arguments import ImageDataArguments, SpeechDataArguments, TextDataArguments
from hf_ssl.data.checking import drop_broken
from hf_ssl.data.loading import load_splits

ROOT = Path(hf_ssl.data.samples.__file__).parent
SPLITS = ("train", "validation", "test")


def rows(name):
    """(split, row) of a whole sample."""
    return [(split, row) for split in SPLITS for row in pq.read_table(ROOT / name / f"{split}.parquet").to_pylist()]


def leaks(pairs):
    """The properties that occur in more than one split."""
    splits = defaultdict(set)
    for split, found in pairs:
        splits[found].add(split)
    return {found: where for found, where in splits.items() if len(where) > 1}


@pytest.fixture(scope="module")
def emoji():
    return rows("emoji")


@pytest.fixture(scope="module")
def speech():
    return rows("speech")


@pytest.fixture(scope="module")
def glosses():
    return rows("glosses")


def test_at_most_15_megabytes():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 15e6


@pytest.mark.parametrize("name", ["emoji", "speech", "glosses", "wordnet_documents"])
def test_licence_and_description_lie_beside_the_files(name):
    assert list((ROOT / name).glob("LICENSE*"))
    assert f"`{name}`" in (ROOT / "README.md").read_text()


def test_counts_in_the_description_are_true():
    description = (ROOT / "README.md").read_text()
    for name in ("emoji", "speech", "glosses", "wordnet_documents"):
        counts = [pq.read_metadata(ROOT / name / f"{split}.parquet").num_rows for split in SPLITS]
        line = next(line for line in description.splitlines() if line.startswith(f"| [`{name}`]"))
        assert " / ".join(f"{count:,}" for count in counts) in line


@pytest.mark.parametrize(
    ("name", "modality", "make"),
    [
        ("emoji", "vision", ImageDataArguments),
        ("speech", "speech", SpeechDataArguments),
        ("glosses", "text", TextDataArguments),
        ("wordnet_documents", "text", TextDataArguments),
    ],
)
def test_every_item_can_be_used_with_the_default_settings(name, modality, make):
    args = make(path=f"sample:{name}")
    for split in load_splits(args, modality).values():
        assert len(drop_broken(split, modality, args)) == len(split)


class TestEmoji:
    def test_pictures(self, emoji):
        for _, row in emoji[::50]:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))

    def test_no_base_emoji_is_in_two_splits(self, emoji):
        assert leaks((split, row["base"]) for split, row in emoji) == {}

    def test_no_picture_is_in_two_splits(self, emoji):
        assert leaks((split, row["image"]["bytes"]) for split, row in emoji) == {}

    def test_no_code_point_of_a_person_is_in_two_splits(self, emoji):
        """Independent of `base`: what is left of the code points without tones, sexes and joiners."""
        variants = {"FE0F", "200D", "2640", "2642", "27A1", "1F9B0", "1F9B1", "1F9B2", "1F9B3"}
        variants |= {f"1F3F{digit}" for digit in "BCDEF"}
        adults = {"1F468", "1F469", "1F9D1"}

        def bare(row):
            points = row["unified"].split("-")
            kept = [point for point in points[1:] if point not in variants]
            return ("person" if points[0] in adults else points[0], *kept)

        people = [(split, bare(row)) for split, row in emoji if row["category"] == 1]
        assert len(people) > 1_500
        assert leaks(people) == {}

    def test_no_name_without_its_sex_is_in_two_splits(self, emoji):
        sexes = r"\b(man|men|male|woman|women|female|boy|girl|mother|father)\b"
        neutral = r"\b(person|people|adult|child|older|mx|facing right)\b"

        def bare(name):
            return re.sub(r"\W+", " ", re.sub(f"{sexes}|{neutral}", "", name)).strip()

        assert leaks((split, bare(row["name"])) for split, row in emoji if row["category"] == 1) == {}

    @pytest.mark.parametrize(
        "names",
        [
            ("prince", "princess", "person with crown"),
            ("father christmas", "mother christmas", "mx claus"),
            ("pregnant man", "pregnant woman"),
            ("man", "woman: beard", "man: red hair", "woman: bald", "person with blond hair"),
            ("boy", "girl", "child"),
            ("dancer", "man dancing"),
            ("family", "family: man, woman, girl, boy", "family: adult, child"),
            ("norway flag", "svalbard & jan mayen flag"),
        ],
    )
    def test_variants_are_together(self, emoji, names):
        splits = {name: {split for split, row in emoji if row["name"] == name} for name in names}
        assert all(splits.values()), splits
        assert len(set.union(*splits.values())) == 1

    def test_skin_tones_are_for_training_only(self, emoji):
        assert {split for split, row in emoji if row["skin_tone"]} == {"train"}

    def test_every_category_is_in_every_split(self, emoji):
        for split in SPLITS:
            assert {row["category"] for where, row in emoji if where == split} == set(range(9))


class TestSpeech:
    def test_recordings(self, speech):
        for _, row in speech[::25]:
            info = soundfile.info(io.BytesIO(row["audio"]["bytes"]))
            assert info.samplerate == (16_000 if row["language"] == 2 else 8_000)
            assert info.channels == 1
            assert info.duration == pytest.approx(row["duration"], abs=1e-4)
            assert row["duration"] >= SpeechDataArguments.min_seconds

    def test_enough_for_a_little_pretraining(self, speech):
        assert sum(row["duration"] for split, row in speech if split == "train") > 30 * 60

    def test_no_sentence_is_in_two_splits(self, speech):
        def sentence(row):
            return row["language"], re.sub(r"[\W_]+", "", row["text"].casefold())

        assert leaks((split, sentence(row)) for split, row in speech) == {}

    def test_no_prompt_is_in_two_splits(self, speech):
        assert leaks((split, row["key"]) for split, row in speech) == {}

    def test_every_class_is_in_every_split(self, speech):
        for column, count in (("language", 3), ("group", 6)):
            for split in SPLITS:
                assert {row[column] for where, row in speech if where == split} == set(range(count))

    def test_transcripts_are_words(self, speech):
        for _, row in speech:
            assert re.search(r"\w", row["text"])
            assert not re.search(r"[\[\]()<>\n]|\w\?\w|\s\?\s", row["text"]), row["text"]


class TestGlosses:
    def test_no_definition_is_in_two_splits(self, glosses):
        assert leaks((split, row["text"]) for split, row in glosses) == {}
        assert leaks((split, row["document"]) for split, row in glosses) == {}

    def test_every_class_is_in_every_split(self, glosses):
        for split in SPLITS:
            assert {row["label"] for where, row in glosses if where == split} == set(range(45))

    def test_rows_of_a_document_follow_each_other(self, glosses):
        runs = [row["document"] for _, row in glosses]
        starts = [name for name, before in zip(runs, [None, *runs[:-1]], strict=True) if name != before]
        assert len(starts) == len(set(starts))

    def test_documents_are_made_of_the_same_definitions(self, glosses):
        parts = defaultdict(list)
        for split, row in glosses:
            parts[split, row["document"]].append(f"{row['word']}: {row['text']}")
        documents = rows("wordnet_documents")
        assert [(split, row["document"]) for split, row in documents] == list(parts)
        for split, row in documents:
            lines = row["text"].split("\n")
            definitions = [line for line in lines if line in parts[split, row["document"]]]
            assert definitions == parts[split, row["document"]]
            assert len(lines) >= 4

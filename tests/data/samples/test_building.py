"""The rules by which the samples are made, on small inputs; the packages themselves are not needed."""

import hashlib
import sys

import pytest

from hf_ssl.data.samples import build, packages
from hf_ssl.data.samples.build_emoji import base_identity
from hf_ssl.data.samples.build_glosses import Synset, grow_documents, read_synsets
from hf_ssl.data.samples.build_speech import clean_transcript


@pytest.mark.parametrize(
    ("unified", "base"),
    [
        ("1F600", "1F600"),
        ("1F1F3-1F1F4", "1F1F3-1F1F4"),
        ("2640-FE0F", "2640"),
        ("0031-FE0F-20E3", "0031-20E3"),
        ("1F3C3-1F3FB-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),
        ("1F468-1F3FF-200D-1F52C", "1F9D1-1F52C"),
        ("1F9D1-200D-2695-FE0F", "1F9D1-2695"),
        ("1F469-200D-1F9B0", "1F9D1"),
        ("1F471-200D-2642-FE0F", "1F9D1"),
        ("1F468-200D-1F469-200D-1F467-200D-1F466", "1F46A"),
        ("1F9D1-200D-1F9D2", "1F46A"),
        ("1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "1F48F"),
        ("1F469-200D-2764-FE0F-200D-1F469", "1F491"),
        ("1F9D1-200D-1F91D-200D-1F9D1", "1F46B"),
        ("1F936", "1F9D1-1F384"),
        ("1F43B-200D-2744-FE0F", "1F43B"),
    ],
)
def test_base_identity(unified, base):
    assert base_identity(unified) == base


@pytest.mark.parametrize(
    ("transcript", "key", "text"),
    [
        ("Grazie.", "auth-thankyou", "Grazie."),
        ("punto [.]", "letters/dot", "punto"),
        ("[!] punto esclamativo", "letters/exclaimation-point", "punto esclamativo"),
        ("spazio []", "letters/space", "spazio"),
        ("La conferenza ? piena.", "conf-full", "La conferenza è piena."),
        ("non pu? essere cos? pi? tardi", "x", "non può essere così più tardi"),
        ("Casella di posta?", "vm-login", "Casella di posta?"),
        ("è stato eliminato vm-then-pound: poi", "vm-tempremoved", "è stato eliminato"),
        ("conf-adminmenu: Нажмите 1", "conf-adminmenu", "Нажмите 1"),
        ("[toni ascendenti]", "ascending-2tone", None),
        ("(1 secondo di silenzio)", "silence/1", None),
        ("Spiacente, [quello] non è valido.", "invalid", None),
        ("un suono beep", "beep", None),
        ("...", "x", None),
    ],
)
def test_clean_transcript(transcript, key, text):
    assert clean_transcript(transcript, key) == text


def synset(name, parent=None):
    return Synset(id=name, label="noun.Tops", word=name, definition=name, examples=[], parent=parent)


def test_documents_are_runs_of_one_branch_and_hold_every_synset_once():
    """Three branches of eleven, each a document with its head, and one of three, which stays with the root."""
    synsets = {"root": synset("root")}
    for branch, count in (("a", 11), ("b", 11), ("c", 11), ("d", 3)):
        synsets[branch] = synset(branch, "root")
        synsets.update({f"{branch}{n}": synset(f"{branch}{n}", branch) for n in range(count)})
    documents = [[member.id for member in document] for document in grow_documents(synsets)]
    assert documents == [
        *([branch, *(f"{branch}{n}" for n in range(11))] for branch in "abc"),
        ["root", "d", "d0", "d1", "d2"],
    ]


def test_small_remains_at_a_root_are_left_out():
    assert list(grow_documents({"a": synset("a"), "b": synset("b", "a")})) == []


def test_synsets_are_read_with_their_parents(tmp_path):
    folder = tmp_path / "usr/share/wordnet"
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text(
        "  1 licence\n"
        "00001740 03 n 01 entity 0 000 | what is  \n"
        '00001930 05 n 02 big_cat 0 cat 0 001 @ 00001740 n 0000 | a cat; "a big; cat"; "meow"  \n'
    )
    (folder / "data.verb").write_text("")
    (folder / "data.adj").write_text(
        "00000001 00 a 01 slow 0 001 & 00000002 a 0000 | not fast  \n"
        "00000002 00 s 01 sluggish(p) 0 001 & 00000001 a 0000 | very slow  \n"
    )
    (folder / "data.adv").write_text("00000003 02 r 01 slowly 0 001 \\ 00000001 a 0101 | in a slow way  \n")
    synsets = read_synsets(tmp_path)
    cat = synsets["n00001930"]
    assert (cat.label, cat.word, cat.definition) == ("noun.animal", "big cat", "a cat")
    assert cat.examples == ["a big; cat", "meow"]
    parents = {name: found.parent for name, found in synsets.items()}
    assert parents == {
        "n00001740": None,
        "n00001930": "n00001740",
        "a00000001": None,
        "a00000002": "a00000001",
        "r00000003": "a00000001",
    }
    assert synsets["a00000002"].word == "sluggish"


def test_a_package_that_is_not_the_embedded_one_is_refused(tmp_path, monkeypatch):
    (tmp_path / "thing-1.tgz").write_bytes(b"something else")
    right = hashlib.sha256(b"the real thing").hexdigest()
    monkeypatch.setattr(packages, "PACKAGES", (packages.Package("npm", "thing", "1", right),))
    with pytest.raises(ValueError, match=r"thing-1\.tgz has SHA-256 .* not the file that is known"):
        packages.unpack_packages(tmp_path)


def test_help_and_unknown_names(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build", "--help"])
    with pytest.raises(SystemExit) as stopped:
        build.main()
    assert stopped.value.code == 0
    assert "--packages" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["build", "emojis", "--packages", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        build.main()
    assert stopped.value.code == 2
    assert "emojis" in capsys.readouterr().err

"""A pickle is read without running any of it."""

import os
import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.inert import PICKLED_CLASSES, stand_ins
from hf_ssl.hub.conversion.reading import read_checkpoint
from tests.hub.conversion.fairseq_models import (
    HUBERT,
    MODELS,
    cfg,
    class_of_fairseq,
    make_dictionary,
    random_weights,
    save,
    save_pretrained,
    shapes_of,
)

WEIGHTS = {"mask_emb": torch.arange(4.0)}


class Pickled:
    """An object whose pickle calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (subprocess.check_output, r"commands\.check_output"),  # its name in Python 2, which pickle writes
        (eval, "eval"),
        (exec, "exec"),
        (getattr, "getattr"),
        (__import__, "__import__"),
        (torch.hub.load, "torch.hub.load"),
    ],
)
@pytest.mark.parametrize("place", ["cfg", "model", "extra_state"])
def test_what_would_run_is_refused_and_named(
    place: str, function: Any, name: str, new_format: bool, tmp_path: Path
) -> None:
    victim, source = tmp_path / "ran", tmp_path / "evil.pt"
    state = {"model": dict(WEIGHTS), "cfg": {"model": {}}, "extra_state": {}}
    state[place]["x"] = Pickled(function, f"touch {victim}")  # type: ignore[index]
    torch.save(state, source, _use_new_zipfile_serialization=new_format)
    with pytest.raises(InputError, match=rf"evil\.pt pickles {name}, which no checkpoint .* nothing of it was run"):
        read_checkpoint(source)
    assert not victim.exists()


def test_the_pickle_of_these_tests_does_run_elsewhere(tmp_path: Path) -> None:
    """Else a refusal would prove nothing."""
    torch.save({"x": Pickled(os.system, f"touch {tmp_path / 'ran'}")}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_known_classes_are_inert() -> None:
    """Of none of the allowed names the class itself is taken, not even where it is installed."""
    for stand_in in stand_ins():
        made = stand_in("anything", 1)
        made.__setstate__({"x": 1})
        assert (made.arguments, made.state) == (("anything", 1), {"x": 1})
        assert vars(made).keys() == {"arguments", "state"}
    assert not {"os", "posix", "subprocess", "sys", "shutil", "operator", "functools"} & PICKLED_CLASSES.keys()
    assert PICKLED_CLASSES["builtins"] == ("bool", "dict", "float", "int", "list", "str", "tuple")


def test_reading_leaves_nothing_allowed_behind(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(save_pretrained(tmp_path / "model.pt", "hubert"))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("new_format", [True, False])
def test_truncated(share: float, new_format: bool, tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    state = {"cfg": cfg(HUBERT), "model": random_weights(shapes_of(HUBERT))}
    torch.save(state, source, _use_new_zipfile_serialization=new_format)
    content = source.read_bytes()
    source.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"model\.pt cannot be read as a checkpoint .* is it complete"):
        read_checkpoint(source)


def test_damaged(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", "hubert")
    with zipfile.ZipFile(source) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        start = source.read_bytes().index(archive.read(name))
    content = bytearray(source.read_bytes())
    content[start + 2 : start + 40] = b"\xff" * 38
    source.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        read_checkpoint(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"Not a checkpoint, but a letter.", "cannot be read"),
        (b"PK\x05\x06" + 18 * b"\0", "cannot be read"),  # an empty zip archive
        (pickle.dumps([1, 2], protocol=2), "cannot be read"),
    ],
)
def test_other_files(content: bytes, message: str, tmp_path: Path) -> None:
    source = tmp_path / "letter.pt"
    source.write_bytes(content)
    with pytest.raises(InputError, match=rf"letter\.pt {message}"):
        read_checkpoint(source)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (WEIGHTS, r"is no checkpoint of fairseq: it holds \['mask_emb'\]"),
        ([1, 2], "it holds list"),
        ({"model": WEIGHTS, "cfg": None, "args": None}, "holds weights without settings"),
        ({"model": {"x": "text"}, "cfg": {"model": {}}}, r"x in .* is a str, not a tensor"),
    ],
)
def test_other_checkpoints(state: Any, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "other.pt")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*gone\.pt"):
        read_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(InputError, match="There is no file"):
        read_checkpoint(tmp_path)


def test_dictionary_of_a_class_that_is_not_installed(tmp_path: Path) -> None:
    with class_of_fairseq("fairseq.data.dictionary", "Dictionary") as dictionary_class:
        state = {"dictionaries": [make_dictionary(dictionary_class, "01")]}
        source = save(tmp_path / "model.pt", cfg(HUBERT), WEIGHTS, task_state=state)
    assert read_checkpoint(source).dictionary == [("0", 5), ("1", 6)]
    assert "fairseq" not in sys.modules


def test_unknown_class_of_fairseq_is_named(tmp_path: Path) -> None:
    with class_of_fairseq("fairseq.tasks.fairseq_task", "FairseqTask") as task_class:
        source = save(tmp_path / "model.pt", {"model": {}, "task": task_class()}, WEIGHTS)
    with pytest.raises(InputError, match=r"pickles fairseq\.tasks\.fairseq_task\.FairseqTask"):
        read_checkpoint(source)


def test_settings_that_are_an_object_of_fairseqs(tmp_path: Path) -> None:
    with class_of_fairseq("fairseq.tasks.audio_pretraining", "AudioPretrainingConfig") as config_class:
        task = config_class()
        task.normalize = True
        source = save(tmp_path / "model.pt", {"model": {}, "task": task}, WEIGHTS)
    assert read_checkpoint(source).settings["task"] == {"normalize": True}


def test_settings_of_every_form_are_the_same(tmp_path: Path) -> None:
    settings = cfg(MODELS["wav2vec2"])
    forms = {
        "plain": settings,
        "omegaconf": OmegaConf.create(settings),
        "ordered": OrderedDict(settings),
        "nested": {**settings, "model": Namespace(**settings["model"])},
        "partly": {**settings, "task": DictConfig(settings["task"])},
    }
    for name, form in forms.items():
        source = save(tmp_path / f"{name}.pt", form, WEIGHTS)
        assert read_checkpoint(source).settings == settings, name


def test_values_that_are_no_settings_become_text(tmp_path: Path) -> None:
    odd = {"device": torch.device("cpu"), "shape": torch.Size([1, 2]), "names": ("a", None, True, 0.5)}
    source = save(tmp_path / "model.pt", {"model": odd}, WEIGHTS, extra_state={"val_loss": np.float64(1.5)})
    assert read_checkpoint(source).settings["model"] == {
        "device": "cpu",
        "shape": [1, 2],
        "names": ["a", None, True, 0.5],
    }


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save_pretrained(tmp_path / "model.pt", "data2vec"))
    assert checkpoint.left_out == ("optimizer_history", "extra_state", "last_optimizer_state")
    assert checkpoint.num_updates == 25_000
    assert "_ema.layers.0.fc1.weight" in checkpoint.weights

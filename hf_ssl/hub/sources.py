"""Where data comes from and under which licence, as far as its name tells."""

import re
from pathlib import Path
from typing import Any

SAMPLE = "sample:"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

WORDNET = ("other", "WordNet 3.0, Copyright 2006 by Princeton University, under the WordNet 3.0 licence")
# The Hub's name of the licence, and who is to be named; in full in hf_ssl/data/samples/README.md.
SAMPLES = {
    "emoji": ("apache-2.0", "Noto Emoji, Copyright Google, under Apache-2.0"),
    "speech": (
        "cc-by-3.0",
        "Asterisk prompts, Copyright 2012 Carlo Flora and 2010 Maxim Topal, under CC-BY-3.0; clips of "
        "pocketsphinx-testdata, Copyright 1995-2014 Carnegie Mellon University and 2014-2015 Alpha Cephei Inc., under "
        "BSD-2-Clause",
    ),
    "glosses": WORDNET,
    "wordnet_documents": WORDNET,
}


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the Hub's and not of a sample or a local file or folder.

    A local path in a run file begins with `/`, `./` or `../` (see [`as_path`]): the card may be written anew where the
    folder is not.
    """
    return HUB_NAME.fullmatch(name) is not None and not name.startswith(".") and not Path(name).exists()


def as_path(name: str) -> str:
    """A name for a run file: what is a file or folder here cannot be taken for a name on the Hub elsewhere."""
    is_local = Path(name).exists() and not Path(name).is_absolute() and not name.startswith(".")
    return f"./{name}" if is_local else name


def licence_of(path: str) -> str | None:
    """The Hub's name of the licence of a data set (`data.path` of a run); `None` where it is not known here."""
    return SAMPLES[path.removeprefix(SAMPLE)][0] if path.startswith(SAMPLE) else None


def describe_data(data: dict[str, Any]) -> str:
    """A sentence on the data of a run, and one on its licence.

    Args:
        data (`dict[str, Any]`): the `data` section of a run.
    """
    path, split = data["path"], f"split `{data['train_split']}`"
    if data.get("name"):
        split = f"configuration `{data['name']}`, {split}"
    if data.get("max_train_items"):
        split += f", its first {data['max_train_items']} items"
    if path.startswith(SAMPLE):
        source = SAMPLES[path.removeprefix(SAMPLE)][1]
        return f"`{path}`, which is embedded in hf_ssl ({split}). Source: {source}."
    if is_hub_name(path):
        page = f"https://huggingface.co/datasets/{path}"
        return f"[`{path}`]({page}) ({split}). Licence: as its page says."
    return f"Local data in `{Path(path).name}` ({split}). The run did not record its licence."

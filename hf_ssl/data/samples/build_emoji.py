"""Sample `emoji`: the Noto emoji at 32 x 32 pixels, with Unicode's categories."""

import io
import json
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage

from hf_ssl.data.holdout import name_hash
from hf_ssl.data.samples.splits import assign_splits, connected_groups

SIDE = 32
CELL = SIDE + 2  # every picture of the sheet has a transparent border of one pixel

ADULTS = {"1F468", "1F469", "1F9D1"}
PEOPLE = ADULTS | {"1F466", "1F467", "1F9D2"}
# Skin tones, female and male sign, "facing right", hair, variation selector: what makes a variant of the same picture.
MODIFIERS = {
    "1F3FB",
    "1F3FC",
    "1F3FD",
    "1F3FE",
    "1F3FF",
    "2640",
    "2642",
    "27A1",
    "1F9B0",
    "1F9B1",
    "1F9B2",
    "1F9B3",
    "FE0F",
}
# Code points of their own that Unicode nevertheless defines as a gendered (or hair) version of another emoji.
SAME_AS = {
    "1F468": "1F9D1",  # man -> person
    "1F469": "1F9D1",  # woman -> person
    "1F471": "1F9D1",  # blond hair -> person
    "1F9D4": "1F9D1",  # beard -> person
    "1F466": "1F9D2",  # boy -> child
    "1F467": "1F9D2",  # girl -> child
    "1F474": "1F9D3",  # old man -> older person
    "1F475": "1F9D3",  # old woman -> older person
    "1F385": "1F9D1-1F384",  # Father Christmas -> Mx Claus
    "1F936": "1F9D1-1F384",  # Mother Christmas -> Mx Claus
    "1F934": "1FAC5",  # prince -> person with crown
    "1F478": "1FAC5",  # princess -> person with crown
    "1F930": "1FAC4",  # pregnant woman -> pregnant person
    "1FAC3": "1FAC4",  # pregnant man -> pregnant person
    "1F931": "1F9D1-1F37C",  # breast-feeding -> person feeding baby
    "1F57A": "1F483",  # man dancing -> woman dancing
    "1F46C": "1F46B",  # two men holding hands -> people holding hands
    "1F46D": "1F46B",  # two women holding hands -> people holding hands
}


def base_identity(unified: str) -> str:
    """The emoji of which `unified` is a skin-tone, gender, hair, direction or family variant.

    Code points are hexadecimal and joined by `-`. A joined sequence counts as a variant of its first picture (polar
    bear of bear) unless it is a person with a profession, whose identity is the profession.
    """
    points = unified.split("-")
    parts = [points[0], *(point for point in points[1:] if point not in MODIFIERS and point != "200D")]
    if parts[0] not in ADULTS or len(parts) == 1:
        first = parts[0] if "200D" in unified else "-".join(parts)
        return SAME_AS.get(first, first)
    if "1F48B" in parts:
        return "1F48F"  # kiss
    if "2764" in parts:
        return "1F491"  # couple with heart
    if "1F91D" in parts:
        return "1F46B"  # people holding hands
    if set(parts) <= PEOPLE:
        return "1F46A"  # family
    return "-".join(["1F9D1", *parts[1:]])


def build(packages: Path) -> tuple[dict[str, list[dict[str, Any]]], Features]:
    """Cuts the sheet of `emoji-datasource` into rows.

    Args:
        packages: folder with the unpacked packages.

    Returns:
        the rows of each split, and their features. Only the training split has skin-tone variants.
    """
    root = packages / "emoji-datasource" / "package"
    sheet = PILImage.open(root / "img" / "google" / "sheets" / f"{SIDE}.png").convert("RGBA")
    entries = [entry for entry in json.loads((root / "emoji.json").read_text()) if entry["category"] != "Component"]
    entries.sort(key=lambda entry: entry["sort_order"])
    rows = [row for entry in entries for row in _rows(entry, sheet)]
    # Some flags are the same picture (Norway, Svalbard, Bouvet Island): those belong together as well.
    groups = connected_groups([(row["base"], row["image"]["bytes"]) for row in rows])
    category = {f"group {group}": row["category"] for group, row in zip(groups, rows, strict=True)}
    splits = assign_splits(category, share=0.15)
    by_split: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for group, row in zip(groups, rows, strict=True):
        split = splits[f"group {group}"]
        if split == "train" or not row["skin_tone"]:
            by_split[split].append(row)
    # In an order without meaning, so that the first rows are a fair sample.
    ordered = {split: sorted(chosen, key=lambda row: name_hash(row["unified"])) for split, chosen in by_split.items()}
    return ordered, _features(rows)


def _rows(entry: dict[str, Any], sheet: PILImage.Image) -> list[dict[str, Any]]:
    """The emoji and its skin tones."""
    variants = {"": entry, **entry.get("skin_variations", {})}
    return [
        {
            "image": {
                "bytes": _cut(sheet, variant["sheet_x"], variant["sheet_y"]),
                "path": f"{variant['unified'].lower()}.png",
            },
            "category": entry["category"],
            "subcategory": entry["subcategory"],
            "name": entry["name"].lower(),
            "emoji": "".join(chr(int(point, 16)) for point in variant["unified"].split("-")),
            "unified": variant["unified"],
            "base": base_identity(entry["unified"]),
            "skin_tone": skin_tone,
        }
        for skin_tone, variant in variants.items()
        if variant["has_img_google"]
    ]


def _cut(sheet: PILImage.Image, column: int, row: int) -> bytes:
    """One picture of the sheet on white, as PNG."""
    left, top = column * CELL + 1, row * CELL + 1
    picture = PILImage.new("RGBA", (SIDE, SIDE), "white")
    picture.alpha_composite(sheet.crop((left, top, left + SIDE, top + SIDE)))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _features(rows: list[dict[str, Any]]) -> Features:
    """Columns with classes in Unicode's own order, which is the order of the rows."""
    return Features(
        {
            "image": Image(decode=False),
            "category": ClassLabel(names=list(dict.fromkeys(row["category"] for row in rows))),
            "subcategory": ClassLabel(names=list(dict.fromkeys(row["subcategory"] for row in rows))),
            "name": Value("string"),
            "emoji": Value("string"),
            "unified": Value("string"),
            "base": Value("string"),
            "skin_tone": Value("string"),
        }
    )

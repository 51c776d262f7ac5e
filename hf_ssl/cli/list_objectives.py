"""`hf-ssl list`: the objectives that the package has."""

import argparse
import json
from typing import Any

from hf_ssl.modeling import OBJECTIVES


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "list",
        help="the objectives, with their papers and recipes",
        description="List the objectives: name, modality, paper, default encoder and recipes (for `hf-ssl pretrain`).",
    )
    parser.add_argument("--json", action="store_true", help="everything about each objective, as JSON")
    parser.set_defaults(run=run)


def describe() -> list[dict[str, Any]]:
    """The table of objectives as plain values, one dict a row."""
    return [
        {
            "name": name,
            "title": row.title,
            "modality": row.modality,
            "paper": row.paper,
            "config_class": f"hf_ssl.modeling.{row.module}.{row.config}",
            "model_class": f"hf_ssl.modeling.{row.module}.{row.model}",
            "default_encoder": row.encoder,
            "recipes": list(row.recipes),
            "recipe_files": [f"hf_ssl/recipes/{recipe}.yaml" for recipe in row.recipes],
            "card": f"model_cards/{row.card}",
        }
        for name, row in OBJECTIVES.items()
    ]


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    if args.json:
        print(json.dumps(describe(), indent=2, ensure_ascii=False))
        return
    rows = describe()
    first, second, third = (2 + max(len(row[key]) for row in rows) for key in ("name", "modality", "title"))
    for row in rows:
        print(f"{row['name']:<{first}}{row['modality']:<{second}}{row['title']:<{third}}{row['paper']}")
        print(f"{'':<{first}}encoder {row['default_encoder']}; recipes: {', '.join(row['recipes'])}")

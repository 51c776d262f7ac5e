"""`hf-ssl adapters`: a registry of adapters that share an encoder."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.errors import InputError
from hf_ssl.hub.adapter_registry import AdapterFacts, AdapterRegistry

EPILOG = """\
A registry is a folder with one folder an adapter, each with its head and label map, all of one encoder. Rows of one
batch may name different adapters of it:

  from hf_ssl.hub.adapter_registry import AdapterRegistry
  from hf_ssl.tuners.mixed import MixedAdapters
  model = MixedAdapters.load(AdapterRegistry("adapters"))
  output = model(**inputs, adapters=["spam", None, "topic"])     one a row; None is the bare encoder
  output.logits, output.labels, output.last_hidden_state

Taken are adapters of classifiers of texts, images and speech that `hf-ssl finetune` left: plain LoRA in linear layers
and bottleneck adapters, of any sizes, layers and numbers of classes.

examples:
  hf-ssl adapters add adapters runs/spam                                   called spam
  hf-ssl adapters add adapters me/topic-lora --name topic                  from the Hub
  hf-ssl adapters add adapters runs/spam_again --name spam --overwrite
  hf-ssl adapters list adapters
  hf-ssl adapters remove adapters spam topic
"""


def add_parser(subparsers: Any) -> None:
    """Add the command, with its own subcommands, to the parser."""
    parser = subparsers.add_parser(
        "adapters",
        help="keep adapters of many tasks on one encoder in a registry",
        description="List, add and remove the adapters of a registry, from which several are loaded at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _add_action(actions, "list", "say which adapters there are, and check their files", list_adapters)
    adding = _add_action(actions, "add", "copy an adapter into the registry", add_adapter)
    removing = _add_action(actions, "remove", "delete adapters from the registry", remove_adapters)
    for action in (listing, adding, removing):
        action.add_argument("registry", type=Path, metavar="REGISTRY", help="its folder")
    adding.add_argument("source", help="output folder of `hf-ssl finetune`, or user/repo that it was pushed to")
    adding.add_argument("--name", help="what to call it (default: the last part of the source)")
    adding.add_argument("--encoder", help="where its encoder is now, if it was moved: a folder or user/repo")
    adding.add_argument("--overwrite", action="store_true", help="replace the adapter that has this name")
    removing.add_argument("names", nargs="+", metavar="NAME", help="of an adapter")


def _add_action(actions: Any, name: str, what: str, run: Any) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    action.set_defaults(run=run)
    return action


def list_adapters(args: argparse.Namespace) -> None:
    """Print a table of the adapters; those that cannot be used are named last.

    Raises:
        InputError: if there is such a one.
    """
    registry = existing(args.registry)
    rows, failures = [], []
    for name in registry:
        try:
            rows.append((name, registry.facts(name)))
        except InputError as error:
            failures.append(str(error))
    if rows or not failures:
        print(table(rows) if rows else f"The registry {args.registry} is empty.")
    if failures:
        raise InputError("\n".join(failures))


def add_adapter(args: argparse.Namespace) -> None:
    """Add an adapter, and say under which name."""
    registry = AdapterRegistry(args.registry)
    path = registry.add(args.source, args.name, args.encoder, args.overwrite)
    facts = registry.facts(path.name)
    print(f"{path.name} is in {args.registry}: {len(facts.label_names)} classes, on {facts.encoder}.")


def remove_adapters(args: argparse.Namespace) -> None:
    """Remove adapters; none if one of the names is unknown."""
    registry = existing(args.registry)
    for name in args.names:
        registry[name]
    for name in dict.fromkeys(args.names):
        registry.remove(name)
        print(f"{name} is no longer in {args.registry}.")


def existing(path: Path) -> AdapterRegistry:
    """A registry that is there already.

    Raises:
        InputError: for a folder that is not there.
    """
    if not path.is_dir():
        raise InputError(f"There is no registry {path}; `hf-ssl adapters add {path} ...` makes one.")
    return AdapterRegistry(path)


def table(rows: list[tuple[str, AdapterFacts]]) -> str:
    """The adapters as a Markdown table."""
    lines = [
        "| adapter | method | model | classes | parameters | size | encoder |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for name, facts in rows:
        size = f"{facts.num_bytes / 1e6:.2f} MB"
        lines.append(
            f"| {name} | {facts.kind} | {facts.model_class} | {len(facts.label_names)} | {facts.num_parameters:,} | "
            f"{size} | {facts.encoder} |"
        )
    return "\n".join(lines)

"""`hf-ssl`: the command and its subcommands."""

import argparse
import errno
import logging
import sys
from collections.abc import Sequence

from hf_ssl import __version__
from hf_ssl.cli import (
    adapters,
    cluster,
    compare,
    convert,
    distill,
    evaluate,
    exits,
    export,
    finetune,
    list_objectives,
    lm,
    pretrain,
    prune,
    push,
    quickstart,
    recognise,
    selftrain,
    sweep,
)
from hf_ssl.errors import InputError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

COMMANDS = (
    quickstart,
    list_objectives,
    pretrain,
    compare,
    cluster,
    finetune,
    sweep,
    distill,
    prune,
    evaluate,
    exits,
    lm,
    recognise,
    selftrain,
    adapters,
    export,
    convert,
    push,
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with one subparser a command."""
    parser = argparse.ArgumentParser(
        prog="hf-ssl",
        description="Self-supervised learning for the Hugging Face ecosystem: pretrain an encoder of speech, images "
        "or text on your own data, fine-tune it with LoRA, evaluate it and publish it.",
        epilog="`hf-ssl COMMAND --help` says how to use each.",
    )
    parser.add_argument("--version", action="version", version=f"hf-ssl {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, on which settings (`section.key=value`) may stand before, between and after the options.

    argparse itself takes a command's positional arguments only where the first of them stand.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") or "=" not in word for word in rest) or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        `int`: the exit code: 0, or 2 when what the user gave cannot be used (the reason stands on stderr in one
            sentence).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args = parse(argv)
    try:
        args.run(args)
    except InputError as error:
        print(f"hf-ssl: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        sentence = of_the_system(error)
        if sentence is None:  # a defect: with its traceback
            raise
        print(f"hf-ssl: {sentence}", file=sys.stderr)
        return 2
    return 0


def of_the_system(error: Exception) -> str | None:
    """What to say of a full disk, or of a file or folder that cannot be used; `None` for any other error.

    A full disk may stand behind another error: libraries raise their own while they clean up after it.
    """
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno in DISK_IS_FULL:
            remedy = "free some space and start the same command again (a training with --resume)"
            return f"{behind.filename or 'A file'} cannot be written ({behind.strerror}); {remedy}."
        behind = behind.__cause__ or behind.__context__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used ({error.strerror}); check the path and its permissions."
    return None


if __name__ == "__main__":
    sys.exit(main())

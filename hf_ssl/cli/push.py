"""`hf-ssl push`: publish a run on the Hub."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.hub.push import push_run

EPILOG = """\
The token is the one of the environment variable HF_TOKEN or of `hf auth login`; it needs write access.

Of a pretraining run is sent: at the root of the repository the encoder with its preprocessor, which AutoModel loads
where hf_ssl is not installed; in pretraining/ the whole pretraining model; run.yaml, metrics.json and the model card.
Of a fine-tuning run: the adapter or model, with its head, label map and processor. Never: checkpoints to resume from,
optimizer states, pickles. It is all one commit; if anything fails, the repository is left as it was. A second push to
the same repository replaces the weights and the card; it must be of the same kind.

examples:
  hf-ssl push runs/simclr_emoji me/simclr-emoji                  private
  hf-ssl push runs/simclr_emoji me/simclr-emoji --public
  hf-ssl push runs/emoji_lora me/emoji-lora --encoder me/simclr-emoji     an adapter trained on a local encoder
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "push",
        help="publish a run on the Hugging Face Hub (private unless asked)",
        description="Send what a run left behind to the Hugging Face Hub, with a model card, in one commit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, help="output folder of `hf-ssl pretrain` or `hf-ssl finetune`")
    parser.add_argument("repo_id", metavar="user/repo", help="the repository; created where it does not exist")
    parser.add_argument("--public", action="store_true", help="let everybody see it")
    parser.add_argument("--message", default="Push with hf_ssl", help="title of the commit (default: %(default)s)")
    parser.add_argument(
        "--encoder", metavar="user/repo", help="for an adapter trained on a local encoder: where that was pushed to"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Push, and say where it is and how it is loaded."""
    pushed = push_run(
        args.run_dir, args.repo_id, private=not args.public, commit_message=args.message, encoder=args.encoder
    )
    print(f"Pushed to {pushed.url} ({'public' if args.public else 'private'}). To load it:\n")
    print(pushed.loading_lines)

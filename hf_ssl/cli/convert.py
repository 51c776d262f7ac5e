"""`hf-ssl convert`: checkpoints of fairseq's speech models, to and from transformers and this package."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.from_fairseq import convert_from_fairseq
from hf_ssl.hub.conversion.report import Conversion
from hf_ssl.hub.conversion.to_fairseq import convert_to_fairseq

EPILOG = """\
What is converted: wav2vec 2.0 (with quantiser and projections), HuBERT and data2vec audio, pretrained or fine-tuned
with CTC. Every weight keeps its bits. The pickled settings of fairseq are read without running code: a file that
pickles anything but tensors, plain values and known classes of settings is refused.

  --to transformers   Wav2Vec2ForPreTraining, HubertModel, Data2VecAudioModel, or Wav2Vec2ForCTC, HubertForCTC,
                      Data2VecAudioForCTC, with preprocessor and tokenizer. What transformers has no class for
                      (HuBERT's heads, data2vec's teacher) is kept in fairseq.safetensors beside it.
  --to hf_ssl         the objective with its heads and teacher, to continue the pretraining
  --to fairseq        back again; a folder that never came from fairseq gets settings made for it

examples:
  hf-ssl convert wav2vec_small.pt --to transformers --output encoders/wav2vec2_base
  hf-ssl convert wav2vec_small_960h.pt --to transformers --output models/wav2vec2_960h --dictionary dict.ltr.txt
  hf-ssl convert hubert_base_ls960.pt --to hf_ssl --output checkpoints/hubert_base
  hf-ssl convert checkpoints/hubert_base --to fairseq --output fairseq/hubert_base.pt
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a checkpoint of fairseq's wav2vec 2.0, HuBERT or data2vec, or back",
        description="Convert a speech checkpoint of fairseq to transformers' classes or to an objective of hf_ssl, or "
        "one of these back to fairseq.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a .pt of fairseq; with --to fairseq, a folder with a checkpoint")
    parser.add_argument("--to", required=True, choices=("transformers", "hf_ssl", "fairseq"), help="what it becomes")
    parser.add_argument(
        "--output", required=True, type=Path, help="a new or empty folder; with --to fairseq, a new file (.pt)"
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        metavar="dict.ltr.txt",
        help="symbols of a model fine-tuned with CTC, as they stand beside fairseq's labels (default: those in the "
        "checkpoint)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what there is now and what there is not."""
    if args.to != "fairseq":
        converted = convert_from_fairseq(args.source, args.output, args.to, args.dictionary)
    elif args.dictionary is None:
        converted = convert_to_fairseq(args.source, args.output)
    else:
        raise InputError("A dictionary for fairseq is made from the tokenizer in the folder; leave --dictionary out.")
    print("\n".join(describe(converted)))


def describe(converted: Conversion) -> list[str]:
    """What a conversion did, in lines."""
    lines = [f"{converted.path} holds {converted.kind}."]
    for names, sentence in (
        (converted.set_aside, "Kept beside it, in fairseq.safetensors, since the class has no place for it"),
        (converted.made_up, "Made up, since the source has none"),
        (converted.lacking, "Not there, so fairseq can fine-tune it but not continue its pretraining"),
        (converted.left_out, "Not converted"),
    ):
        if names:
            lines.append(f"{sentence}: {shortened(names)}.")
    return lines


def shortened(names: list[str]) -> str:
    """Names in a sentence: the first four, and how many more."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

"""`hf-ssl convert`: published checkpoints of speech and image models, to and from transformers and this package."""

import argparse
from pathlib import Path
from typing import Any

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.from_fairseq import convert_from_fairseq
from hf_ssl.hub.conversion.images.from_published import convert_image_backbone
from hf_ssl.hub.conversion.images.reading import no_backbone, read_state, recognise
from hf_ssl.hub.conversion.images.sources import SOURCES
from hf_ssl.hub.conversion.images.to_published import MODEL_TYPES, convert_to_names
from hf_ssl.hub.conversion.report import Conversion
from hf_ssl.hub.conversion.to_fairseq import convert_to_fairseq

FAIRSEQ = "fairseq"
EPILOG = """\
Speech: wav2vec 2.0 (with quantiser and projections), HuBERT and data2vec audio of fairseq, pretrained or fine-tuned
with CTC.
Images: the ResNet (torchvision's names) or ViT (timm's names) in a checkpoint of solo-learn, lightly, VISSL, or of the
authors of MoCo v1-v3, SimSiam, SwAV, DeepCluster-v2, DINO, iBOT, MAE, Barlow Twins and VICReg, or alone, as SimCLR's
conversions to PyTorch are published. Heads, decoders and momentum encoders are left out and listed. Not
converted: SimCLR's and BYOL's own files (TensorFlow, JAX), SimMIM and BEiT (relative positions), small-image stems.

Every weight keeps its bits. Pickles are read without running code: a file that pickles anything but tensors, plain
values and known classes of settings is refused. Unknown and missing weights are named.

  --to transformers   speech: Wav2Vec2ForPreTraining, HubertModel, Data2VecAudioModel, or Wav2Vec2ForCTC, HubertForCTC,
                      Data2VecAudioForCTC, with preprocessor and tokenizer; what transformers has no class for
                      (HuBERT's heads, data2vec's teacher) is kept in fairseq.safetensors beside it.
                      images: ResNetModel or ViTModel, with the image processor of the authors' evaluation
  --to hf_ssl         speech: the objective with its heads and teacher, to continue the pretraining
  --to fairseq        back again; a folder that never came from fairseq gets settings made for it
  --to torchvision    the state dict of a ResNetModel by torchvision's names
  --to timm           the state dict of a ViTModel by timm's names

examples:
  hf-ssl convert wav2vec_small.pt --to transformers --output encoders/wav2vec2_base
  hf-ssl convert wav2vec_small_960h.pt --to transformers --output models/wav2vec2_960h --dictionary dict.ltr.txt
  hf-ssl convert hubert_base_ls960.pt --to hf_ssl --output checkpoints/hubert_base
  hf-ssl convert checkpoints/hubert_base --to fairseq --output fairseq/hubert_base.pt
  hf-ssl convert moco_v2_800ep_pretrain.pth.tar --to transformers --output encoders/moco_v2
  hf-ssl convert dino_deitsmall16_pretrain.pth --from dino --to transformers --output encoders/dino_small
  hf-ssl convert runs/photos/encoder --to torchvision --output resnet.pth
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a published speech or image checkpoint, or back",
        description="Convert a speech checkpoint of fairseq or an image backbone of another library to transformers' "
        "classes (speech also to an objective of hf_ssl), or back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=Path, help="a file (.pt, .pth, .ckpt, .safetensors ...); on the way back, a folder"
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=("transformers", "hf_ssl", FAIRSEQ, *MODEL_TYPES),
        help="what it becomes",
    )
    parser.add_argument(
        "--from",
        dest="origin",
        choices=(FAIRSEQ, *SOURCES),
        help="whose file it is (default: recognised by the names of its weights)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="a new or empty folder; on the way back, a new file"
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        metavar="dict.ltr.txt",
        help="symbols of a model fine-tuned with CTC, as they stand beside fairseq's labels (default: those in the "
        "checkpoint)",
    )
    parser.add_argument(
        "--num-attention-heads",
        type=int,
        metavar="N",
        help="of a ViT, whose weights do not say it (default: the authors' number where it is known, else one per 64 "
        "channels)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what there is now and what there is not."""
    back = args.to in (FAIRSEQ, *MODEL_TYPES)
    if back and args.dictionary is not None:
        raise InputError("A dictionary for fairseq is made from the tokenizer in the folder; leave --dictionary out.")
    if back and (args.origin is not None or args.num_attention_heads is not None):
        raise InputError(
            f"With --to {args.to} the source is a folder that says what it holds; leave --from and "
            "--num-attention-heads out."
        )
    if args.to == FAIRSEQ:
        converted = convert_to_fairseq(args.source, args.output)
    elif args.to in MODEL_TYPES:
        converted = convert_to_names(args.source, args.output, args.to)
    else:
        converted = _convert_published(args)
    print("\n".join(describe(converted)))


def _convert_published(args: argparse.Namespace) -> Conversion:
    if (args.origin or _recognised(args.source)) == FAIRSEQ:
        if args.num_attention_heads is not None:
            raise InputError("fairseq's checkpoints say how many heads there are; leave --num-attention-heads out.")
        return convert_from_fairseq(args.source, args.output, args.to, args.dictionary)
    if args.to != "transformers" or args.dictionary is not None:
        raise InputError(
            f"Of the image checkpoint {args.source} the encoder is converted; give --to transformers, without "
            "--dictionary, and start a pretraining or fine-tuning from the folder."
        )
    return convert_image_backbone(args.source, args.output, args.origin, args.num_attention_heads)


def _recognised(source: Path) -> str:
    """fairseq, or the library or authors of an image model."""
    state = read_state(source)
    found = recognise(state)
    if found is None and not (isinstance(state, dict) and state.keys() & {"cfg", "args"}):
        raise no_backbone(source, state)
    return found or FAIRSEQ


def describe(converted: Conversion) -> list[str]:
    """What a conversion did, in lines."""
    lines = [f"{converted.path} holds {converted.kind}."]
    for names, sentence in (
        (converted.set_aside, "Kept beside it, in fairseq.safetensors, since the class has no place for it"),
        (converted.made_up, "Made up, since the source has none"),
        (converted.lacking, "Not there, so fairseq can fine-tune it but not continue its pretraining"),
    ):
        if names:
            lines.append(f"{sentence}: {shortened(names)}.")
    if converted.left_out:
        lines.append(f"Not converted: {shortened(converted.left_out, 12)}.")
    lines += [f"Assumed, since the file does not say it: {setting}." for setting in converted.assumed]
    return lines


def shortened(names: list[str], shown: int = 4) -> str:
    """Names in a sentence: the first of them, and how many more."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")

"""What an objective costs beyond its encoder: one step of the pretraining model over the bare encoder's two passes.

    python benchmarks/objective_overhead.py [--objectives bert hubert simclr] [--repeats 7] [--device cpu]

A step is forward and backward of the objective on a batch that its `draw_inputs` made; the bare encoder's is forward
and backward of the mean of its output on the same input (for SimCLR: the same two views). The two alternate, and the
ratio is taken pair by pair: its median, smallest and largest are printed. Encoders have the published base sizes.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor
from transformers import BertConfig, HubertConfig, ResNetConfig, set_seed

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig
from hf_ssl.modeling.text.bert import BertPreTrainingConfig, BertPreTrainingModel
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining

Batch = dict[str, Tensor]
TARGETS = {"bert": 1.15, "hubert": 1.15, "simclr": 1.10}


def bert() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """BERT base, 8 sequences of 128 tokens, at most 20 predictions each."""
    config = BertPreTrainingConfig(encoder_config=BertConfig(), max_predictions_per_sequence=20)
    rows, length = 8, 128
    batch = {
        "input_ids": torch.randint(1000, 30_000, (rows, length)),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "token_type_ids": (torch.arange(length) > 60).long().expand(rows, -1),
        "next_sentence_label": torch.arange(rows) % 2,
        "special_tokens_mask": torch.zeros(rows, length, dtype=torch.bool),
        "word_starts": torch.ones(rows, length, dtype=torch.bool),
    }
    drawn = BertPreTrainingModel.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(rows)])
    names = ("input_ids", "attention_mask", "token_type_ids")
    return BertPreTrainingModel(config), drawn, {name: drawn[name] for name in names}


def hubert() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """HuBERT base with 500 clusters, 2 recordings of 6 seconds."""
    config = HubertPreTrainingConfig(encoder_config=HubertConfig(layerdrop=0.0))
    rows, seconds = 2, 6
    batch = {
        "input_values": torch.randn(rows, 16_000 * seconds),
        "units": torch.randint(500, (rows, 50 * seconds)),
    }
    drawn = HubertForPreTraining.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(rows)])
    return HubertForPreTraining(config), drawn, {"input_values": drawn["input_values"]}


def simclr() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """ResNet-50, two views of 8 images of 224 pixels."""
    views = torch.randn(8, 2, 3, 224, 224)
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=ResNetConfig()))
    bare = views.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # the faster layout too
    return model, {"pixel_values": views}, {"pixel_values": bare}


CASES: dict[str, Callable[[], tuple[SSLPreTrainedModel, Batch, Batch]]] = {
    "bert": bert,
    "hubert": hubert,
    "simclr": simclr,
}


def seconds(step: Callable[[], Tensor], model: torch.nn.Module, device: torch.device) -> float:
    """Of one forward and backward pass, with the accelerator's work done."""
    model.zero_grad()
    start = time.perf_counter()
    step().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, repeats: int, device: torch.device) -> list[float]:
    """The ratios of objective to bare encoder, pair by pair."""
    set_seed(0)
    model, batch, bare = CASES[name]()
    model = model.to(device).train()
    batch, bare = ({key: value.to(device) for key, value in part.items()} for part in (batch, bare))

    def objective() -> Tensor:
        return model(**batch).loss

    def encoder() -> Tensor:
        return model.encoder(**bare).last_hidden_state.mean()

    for step in (objective, encoder):
        seconds(step, model, device)
    return [seconds(objective, model, device) / seconds(encoder, model, device) for _ in range(repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{device}, {torch.get_num_threads()} threads, {args.repeats} pairs\n"
    )
    print("| objective | step over bare encoder (median) | smallest | largest | target |\n|---|---:|---:|---:|---:|")
    for name in args.objectives:
        ratios = measure(name, args.repeats, device)
        print(
            f"| {name} | {statistics.median(ratios):.3f} | {min(ratios):.3f} | {max(ratios):.3f} | {TARGETS[name]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What early exit saves, and what exits cost that nobody leaves at: wall time over the plain encoder with one head.

    python benchmarks/early_exit.py [--cases text image speech] [--rounds 9] [--threads 1] [--device cpu] \
        [--clock wall]

Encoders of 12 layers with an exit after each, freshly initialised: how long a pass takes does not depend on what has
been learned. The policy is the largest probability; the thresholds are set between the scores of a batch of 32 such
that its rows leave evenly at layers 5 to 12, at .70 of the depth on average. Every exit is then asked, and makes the
host wait. With batch 1, the same rows come one by one. What an encoder does before its layers is not saved: a waveform
encoder's CNN runs for every row.

*Plain* is the encoder and the last exit's head, with no exit before it. *Never* is the model with all its exits under
the policy `"never"`, which computes all their logits. The sides alternate, and each ratio is taken within a round: its
median, smallest and largest are printed. On a machine that is busy with other work, `--clock cpu` counts the time that
this process had of it, with one thread what it would take alone.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor
from transformers import BertConfig, HubertConfig, ViTConfig, set_seed

from hf_ssl.modeling.early_exit.base import EarlyExitModel
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import (
    EarlyExitForAudioClassification,
    EarlyExitForImageClassification,
    EarlyExitForSequenceClassification,
)
from hf_ssl.modeling.early_exit.policies import exit_scores, exits_taken

ROWS = 32
NUM_LAYERS = 12
FIRST_LAYER = 4.8  # and evenly up to the last: .70 of the depth on average
POLICY = "max_probability"
TARGETS = {"batch 32": 0.75, "batch 1": 0.80, "never": 1.02}
SIZES = {"num_hidden_layers": NUM_LAYERS, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Batch = dict[str, Tensor]


def text() -> tuple[EarlyExitModel, Batch]:
    """BERT of 256, sequences of 32 to 64 tokens."""
    config = EarlyExitConfig(encoder_config=BertConfig(**SIZES, vocab_size=1000), num_labels=3)
    lengths = torch.linspace(32, 64, ROWS).round()
    mask = (torch.arange(64) < lengths[:, None]).long()
    batch = {"input_ids": torch.randint(5, 1000, (ROWS, 64)), "attention_mask": mask}
    return EarlyExitForSequenceClassification(config), batch


def image() -> tuple[EarlyExitModel, Batch]:
    """ViT of 256, images of 64 patches."""
    config = EarlyExitConfig(encoder_config=ViTConfig(**SIZES, image_size=64, patch_size=8), num_labels=10)
    return EarlyExitForImageClassification(config), {"pixel_values": torch.randn(ROWS, 3, 64, 64)}


def speech() -> tuple[EarlyExitModel, Batch]:
    """HuBERT of 256 with a light CNN, recordings of about 1.3 seconds (64 frames)."""
    cnn = {"conv_dim": [64] * 4, "conv_kernel": [10, 4, 4, 4], "conv_stride": [5, 4, 4, 4]}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 16}
    config = EarlyExitConfig(encoder_config=HubertConfig(**SIZES, **cnn, **positions), num_labels=10)
    return EarlyExitForAudioClassification(config), {"input_values": torch.randn(ROWS, 64 * 320 + 400)}


CASES: dict[str, Callable[[], tuple[EarlyExitModel, Batch]]] = {"text": text, "image": image, "speech": speech}


def thresholds_for(scores: Tensor, wanted: Tensor) -> list[float]:
    """Thresholds at which as many rows leave at each exit as are wanted to, the most certain ones.

    Args:
        scores (`Tensor` of shape `(E, B)`): of all exits.
        wanted (`Tensor` of shape `(B,)`): an exit for each row, in any order.
    """
    here = torch.arange(scores.shape[1])
    thresholds = []
    for index, of_exit in enumerate(scores[:-1]):
        number = int((wanted == index).sum())
        order = here[of_exit[here].argsort(descending=True)]
        certain, rest = of_exit[order[:number]], of_exit[order[number:]]
        above = certain[-1] if number else torch.ones(())  # without any to leave, half way up to certainty
        thresholds.append(float((above + rest[0]) / 2))
        here = order[number:]
    return thresholds


def plain(model: EarlyExitModel, batch: Batch) -> Tensor:
    """The encoder and the last head alone."""
    hidden = model.base_model(**batch).last_hidden_state
    head = model.exits[-1]
    _, logits = head(hidden, model.mask_of(hidden, batch))
    return logits


def seconds(step: Callable[[], object], clock: Callable[[], float], device: torch.device) -> float:
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


@torch.no_grad()
def measure(
    case: str, rounds: int, clock: Callable[[], float], device: torch.device
) -> tuple[float, dict[str, list[float]]]:
    """The mean depth, and the ratios of time, round by round."""
    set_seed(0)
    model, batch = CASES[case]()
    model = model.to(device).eval()
    batch = {name: value.to(device) for name, value in batch.items()}
    wanted = torch.linspace(FIRST_LAYER, NUM_LAYERS, ROWS).round() - 1
    scores = exit_scores(POLICY, model(**batch).exit_logits).cpu()
    thresholds = thresholds_for(scores, wanted)
    depth = (exits_taken(scores, thresholds) + 1).float().mean().item() / NUM_LAYERS
    model.config.exit_threshold = thresholds
    singles = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(ROWS)]

    def under(policy: str, batches: list[Batch]) -> float:
        model.config.exit_policy = policy
        return seconds(lambda: [model(**rows) for rows in batches], clock, device)

    def without_exits(batches: list[Batch]) -> float:
        return seconds(lambda: [plain(model, rows) for rows in batches], clock, device)

    ratios: dict[str, list[float]] = {name: [] for name in TARGETS}
    for round_number in range(rounds + 1):
        at_once, never, leaving = without_exits([batch]), under("never", [batch]), under(POLICY, [batch])
        one_by_one, leaving_one_by_one = without_exits(singles), under(POLICY, singles)
        found = {
            "never": never / at_once,
            "batch 32": leaving / at_once,
            "batch 1": leaving_one_by_one / one_by_one,
        }
        if round_number > 0:  # the first warms up, and learns which arguments go with the rows
            for name, ratio in found.items():
                ratios[name].append(ratio)
    return depth, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{device}, {torch.get_num_threads()} threads, {args.rounds} rounds, {args.clock} time\n"
    )
    print("| encoder | mean depth | over plain | median | smallest | largest | target |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for case in args.cases:
        depth, ratios = measure(case, args.rounds, CLOCKS[args.clock], device)
        for name, values in ratios.items():
            print(
                f"| {case} | {1 if name == 'never' else depth:.3f} | {name} | {statistics.median(values):.3f} | "
                f"{min(values):.3f} | {max(values):.3f} | {TARGETS[name]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""wav2vec 2.0: quantiser and contrastive loss of masked frames alone against those of transformers, of all frames.

    python benchmarks/wav2vec2_loss.py [--rows 2] [--frames 780] [--seconds 10] [--threads 1] [--repeats 5]

1. What follows the encoder, of BASE's sizes: quantiser, projections, contrastive loss and diversity. Both sides have
   the same weights, masks, negatives and encoder's output; transformers' `Wav2Vec2ForPreTraining.forward` runs with
   its encoder replaced by one that gives that output. The losses are compared in evaluation, where both choose the
   codes of the highest score; time and memory are of a forward and backward pass in training, the drawing of the
   Gumbel noise included on both sides. The peak is of all tensors alive at once, beyond those that were before, as
   `torch.profiler` counts the allocator's bytes.
2. A whole training step of BASE, forward and backward, on one recording; here the feature penalty is in ours alone.

Times are of this process's processor, so that others on the machine do not count. Prints ratios of medians. Exits with
1 unless the losses are equal within 1e-5 (relative), the first part takes at most a 15th of the time and a tenth of
the memory, and the step is at least 1.1 times as fast.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import ProfilerActivity, profile
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2BaseModelOutput

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.gumbel_quantizer import gumbel_noise
from hf_ssl.modeling.blocks.positions import NOWHERE
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingModel
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig

FASTER, SMALLER, FASTER_STEP = 15, 10, 1.1
Batch = dict[str, Tensor]


class EncoderOutput(nn.Module):
    """Stands for an encoder: gives what it was given."""

    def __init__(self, hidden: Tensor, features: Tensor) -> None:
        super().__init__()
        self.output = Wav2Vec2BaseModelOutput(last_hidden_state=hidden, extract_features=features)

    def forward(self, *args: object, **kwargs: object) -> Wav2Vec2BaseModelOutput:
        return self.output


def both_models() -> tuple[Wav2Vec2PreTrainingModel, Wav2Vec2ForPreTraining]:
    """BASE with the same weights, without dropout and LayerDrop, which would drop other things on each side."""
    names = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
    encoder = Wav2Vec2Config(**dict.fromkeys(names, 0.0))
    ours = Wav2Vec2PreTrainingModel(Wav2Vec2PreTrainingConfig(encoder_config=encoder, feat_quantizer_dropout=0.0))
    return ours, ours.to_transformers()


def draw(config: Wav2Vec2PreTrainingConfig, rows: int, num_samples: int) -> tuple[Batch, Batch]:
    """Waveforms and what both sides draw for them: ours, and the same masks and negatives for transformers."""
    batch = Wav2Vec2PreTrainingModel.draw_inputs(
        config, {"input_values": torch.randn(rows, num_samples)}, [item_generator(0, 0, row) for row in range(rows)]
    )
    mask = batch["mask_time_indices"]
    negatives = torch.zeros(*mask.shape, config.num_negatives, dtype=torch.long)
    for row, positions in enumerate(batch["masked_positions"]):
        positions = positions[positions != NOWHERE]
        negatives[row, positions] = positions[batch["negatives"][row, : len(positions)]] + row * mask.shape[1]
    theirs = {"mask_time_indices": mask, "sampled_negative_indices": negatives}
    return batch, {"input_values": batch["input_values"], **theirs}


def loss_after_encoder(model: Wav2Vec2PreTrainingModel, hidden: Tensor, features: Tensor, batch: Batch) -> Tensor:
    """The contrastive loss and the weighed diversity, with noise drawn here."""
    positions, noise = batch["masked_positions"], None
    is_masked = positions != NOWHERE
    if model.training:
        size = batch["gumbel_noise"].shape[2]
        drawn = [gumbel_noise(n, size, torch.default_generator) for n in is_masked.sum(dim=1).tolist()]
        noise = pad_sequence(drawn, batch_first=True)
    logits, scores = model.contrast(hidden, features, positions, batch["negatives"], noise)
    assert scores is not None
    targets = torch.where(is_masked.flatten(), 0, IGNORED)
    diversity, _ = model.diversity(scores, is_masked)
    return F.cross_entropy(logits, targets) + model.config.diversity_loss_weight * diversity


def seconds(step: Callable[[], Tensor]) -> float:
    """Processor time of one forward and backward pass."""
    start = time.process_time()
    step().backward()
    return time.process_time() - start


def median_seconds(slow: Callable[[], Tensor], fast: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Of both sides, which alternate; the first of each warms up."""
    pairs = [(seconds(slow), seconds(fast)) for _ in range(repeats + 1)]
    left, right = zip(*pairs[1:], strict=True)
    return statistics.median(left), statistics.median(right)


def peak_bytes(step: Callable[[], Tensor]) -> int:
    """The most bytes of tensors that were alive at once in a forward and backward pass, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step().backward()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in events]
    return max(totals) - (totals[0] - events[0]["args"]["Bytes"])


def compare_losses(args: argparse.Namespace) -> bool:
    ours, theirs = both_models()
    batch, their_batch = draw(ours.config, args.rows, 320 * args.frames + 80)
    shape = (args.rows, args.frames)
    hidden, features = torch.randn(*shape, 768, requires_grad=True), torch.randn(*shape, 512, requires_grad=True)
    assert batch["mask_time_indices"].shape == shape
    theirs.wav2vec2 = EncoderOutput(hidden, features)
    num_masked = batch["mask_time_indices"].sum()

    def our_step() -> Tensor:
        return loss_after_encoder(ours, hidden, features, batch)

    def their_step() -> Tensor:
        return theirs(**their_batch).loss / num_masked

    with torch.no_grad():
        logits, _ = ours.eval().contrast(hidden, features, batch["masked_positions"], batch["negatives"], None)
        targets = torch.where((batch["masked_positions"] != NOWHERE).flatten(), 0, IGNORED)
        value = F.cross_entropy(logits, targets).item()
        reference = (theirs.eval()(**their_batch).contrastive_loss / num_masked).item()
    difference = abs(value - reference) / reference
    print(
        f"B={args.rows} T={args.frames}, {num_masked} masked; contrastive loss {value:.7f} / {reference:.7f}, ", end=""
    )
    print(f"relative difference {difference:.1e}\n")

    ours.train(), theirs.train()
    slow, fast = median_seconds(their_step, our_step, args.repeats)
    large, small = peak_bytes(their_step), peak_bytes(our_step)
    print(
        "| after the encoder, forward + backward | transformers | hf_ssl | ratio | target |\n|---|---:|---:|---:|---:|"
    )
    print(f"| time (ms) | {1e3 * slow:.0f} | {1e3 * fast:.1f} | {slow / fast:.1f}× | {FASTER}× |")
    print(
        f"| peak memory (MB) | {large / 1e6:.0f} | {small / 1e6:.1f} | {large / small:.1f}× | {SMALLER}× |", flush=True
    )
    return difference <= 1e-5 and slow / fast >= FASTER and large / small >= SMALLER


def compare_steps(args: argparse.Namespace) -> bool:
    ours, theirs = both_models()
    batch, their_batch = draw(ours.config, 1, 16_000 * args.seconds)
    num_masked = batch["mask_time_indices"].sum()
    ours.train(), theirs.train()
    slow, fast = median_seconds(
        lambda: theirs(**their_batch).loss / num_masked, lambda: ours(**batch).loss, args.repeats
    )
    times = f"{1e3 * slow:.0f} | {1e3 * fast:.0f} | {slow / fast:.2f}×"
    print(f"| whole step, 1 × {args.seconds} s (ms) | {times} | {FASTER_STEP}× |")
    return slow / fast >= FASTER_STEP


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2, help="B, recordings")
    parser.add_argument("--frames", type=int, default=780, help="T, frames of each")
    parser.add_argument("--seconds", type=int, default=10, help="of the recording of the whole step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, CPU, {args.threads} thread(s)")
    reached = [compare_losses(args), compare_steps(args)]
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())

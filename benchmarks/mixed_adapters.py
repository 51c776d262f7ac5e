"""A batch whose rows name different LoRA adapters: our one pass against PEFT's loop over the adapters.

    python benchmarks/mixed_adapters.py [--adapters 16] [--rows 16] [--tokens 32] [--rank 8] [--threads 1]

The encoder is a BERT of MiniLM's size (6 layers of 384), random, with LoRA on query and value and a classification
head for each adapter; PEFT is given `adapter_names=`, ours `adapters=`. Both sides hold the same weights.

1. The adapted layers alone: what LoRA adds in all of them, on the hidden states that each layer was given. Their base
   layers are replaced by what they gave, so that both sides are timed without the work that they share.
2. The whole forward pass, and that of the bare classifier without any adapter. Most of it is the encoder, so the ratio
   is bounded by (encoder + loop) / encoder, however fast the adapters are; it is printed beside the rest and has no
   target.

Times are of this process's processor, so that others on the machine do not count; medians of interleaved repeats, with
the smallest and largest. Exits with 1 unless the logits are equal to PEFT's within 1e-5 and the adapted layers are at
least 3 times as fast.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from hf_ssl.tuners.mixed import MixedAdapters
from hf_ssl.tuners.mixed.layers import MixedLoRA
from hf_ssl.tuners.mixed.rows import Rows, computing

FASTER = 3
SIZE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
NUM_CLASSES = 4


class Given(nn.Module):
    """Stands for a base layer: gives what it was given."""

    def __init__(self, layer: nn.Linear, output: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def both_models(num_adapters: int, rank: int, folder: Path) -> tuple[PeftModel, MixedAdapters]:
    """PEFT's model with all adapters, and ours, loaded from what PEFT saved."""
    BertModel(BertConfig(vocab_size=2000, **SIZE)).save_pretrained(folder / "encoder")
    labels = {index: f"class {index}" for index in range(NUM_CLASSES)}
    model = BertForSequenceClassification.from_pretrained(folder / "encoder", id2label=labels)
    model.config.architectures = ["BertForSequenceClassification"]
    lora = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["query", "value"],
        modules_to_save=["pooler.dense", "classifier"],
        init_lora_weights=False,
        base_model_name_or_path=str(folder / "encoder"),
    )
    theirs = get_peft_model(model, lora, adapter_name="task-0")
    for index in range(1, num_adapters):
        theirs.add_adapter(f"task-{index}", lora)
    for name, parameter in theirs.named_parameters():
        if "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.05)
    theirs.save_pretrained(folder / "adapters")
    folders = {name: folder / "adapters" / name for name in theirs.peft_config}
    for path in folders.values():
        model.config.save_pretrained(path)
    return theirs.eval().requires_grad_(False), MixedAdapters.load(folders)


def seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def measure(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def line(what: str, times: list[float]) -> str:
    values = (f"{1e3 * value:.2f}" for value in (statistics.median(times), min(times), max(times)))
    return f"| {what} | {' | '.join(values)} |"


def ratio(slow: list[float], fast: list[float]) -> str:
    """The ratio of the medians; smallest and largest of those of each pair."""
    pairs = [one / other for one, other in zip(slow, fast, strict=True)]
    median = statistics.median(slow) / statistics.median(fast)
    return f"{median:.2f}× (pair by pair {min(pairs):.2f}× to {max(pairs):.2f}×)"


def layers_alone(
    theirs: PeftModel, ours: MixedAdapters, names: list[str], inputs: dict[str, Tensor], repeats: int
) -> tuple[bool, float]:
    """Time the layers with LoRA on their own inputs; whether they give the same, and how much faster ours are."""
    given: dict[str, Tensor] = {}
    base = theirs.get_base_model()
    lora = {name: module for name, module in base.named_modules() if isinstance(module, LoraLinear)}
    for name, module in lora.items():
        module.register_forward_pre_hook(lambda _, args, name=name: given.update({name: args[0].clone()}))
    theirs(**inputs, adapter_names=names)
    mixed = {name: module for name, module in ours.model.named_modules() if isinstance(module, MixedLoRA)}
    assert set(mixed) == set(lora) == set(given)
    for name, module in lora.items():
        module._forward_pre_hooks.clear()
        output = module.base_layer(given[name])
        # PEFT adds to the output where it lies, so it has one of its own; over the repeats it grows.
        module.base_layer = Given(module.base_layer, output.clone())
        mixed[name].base = Given(mixed[name].base, output)
    rows = Rows.of([1 + ours.names.index(name) for name in names], torch.device("cpu"))

    def our_pass() -> list[Tensor]:
        with computing(rows):
            return [layer(given[name]) for name, layer in mixed.items()]

    def their_pass() -> list[Tensor]:
        return [layer(given[name], adapter_names=names) for name, layer in lora.items()]

    pairs = zip(our_pass(), their_pass(), strict=True)
    equal = max((one - other).abs().max().item() for one, other in pairs) <= 1e-5
    times = measure({"theirs": their_pass, "ours": our_pass}, repeats)
    print(f"\n| {len(mixed)} layers' LoRA alone | median ms | smallest | largest |\n|---|---:|---:|---:|")
    print(line("PEFT, loop over adapters", times["theirs"]))
    print(line("hf_ssl, one pass", times["ours"]))
    print(f"\n{ratio(times['theirs'], times['ours'])}, target {FASTER}×\n", flush=True)
    return equal, statistics.median(times["theirs"]) / statistics.median(times["ours"])


def whole_pass(
    theirs: PeftModel, ours: MixedAdapters, names: list[str], inputs: dict[str, Tensor], repeats: int
) -> bool:
    """Time whole forward passes; whether the logits are the same."""
    bare = BertForSequenceClassification(theirs.get_base_model().config).eval().requires_grad_(False)
    steps: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(**inputs),
        "theirs": lambda: theirs(**inputs, adapter_names=names),
        "ours": lambda: ours(**inputs, adapters=names),
    }
    logits = torch.stack([row for row in ours(**inputs, adapters=names).logits if row is not None])
    difference = (theirs(**inputs, adapter_names=names).logits - logits).abs().max().item()
    times = measure(steps, repeats)
    print(f"Largest difference of the logits: {difference:.1e}\n")
    print("| whole forward pass | median ms | smallest | largest |\n|---|---:|---:|---:|")
    print(line("bare classifier, no adapter", times["bare"]))
    print(line("PEFT, loop over adapters", times["theirs"]))
    print(line("hf_ssl, one pass", times["ours"]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\nPEFT over hf_ssl {ratio(times['theirs'], times['ours'])}; over the bare classifier PEFT takes ", end="")
    print(
        " and hf_ssl ".join(
            f"{1e2 * (medians[name] / medians['bare'] - 1):.1f} % more" for name in steps if name != "bare"
        )
    )
    return difference <= 1e-5


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--rows", type=int, default=16, help="B; they name the adapters in turn")
    parser.add_argument("--tokens", type=int, default=32, help="T of each row")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
        f"Python {platform.python_version()}, CPU, {args.threads} thread(s)\n"
        f"{args.adapters} adapters of rank {args.rank}, B={args.rows}, T={args.tokens}, {args.repeats} repeats"
    )
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        theirs, ours = both_models(args.adapters, args.rank, Path(folder))
    names = [f"task-{row % args.adapters}" for row in range(args.rows)]
    mask = torch.ones(args.rows, args.tokens, dtype=torch.long)
    inputs = {"input_ids": torch.randint(2000, (args.rows, args.tokens)), "attention_mask": mask}
    equal = whole_pass(theirs, ours, names, inputs, args.repeats)
    equal_layers, faster = layers_alone(theirs, ours, names, inputs, args.repeats)
    return int(not (equal and equal_layers and faster >= FASTER))


if __name__ == "__main__":
    sys.exit(main())

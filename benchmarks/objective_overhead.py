"""What an objective costs beyond its encoder: one step of the pretraining model over the bare encoder's two passes.

    python benchmarks/objective_overhead.py [--objectives bert hubert ...] [--repeats 7] [--device cpu]

A step is forward and backward of the objective on a batch that its `draw_inputs` made, and its `after_optimizer_step`.
The bare encoder's is forward and backward of the mean of its output on the same input (for SimCLR: the same two
views). The two alternate, and the ratio is taken pair by pair: its median, smallest and largest are printed. Encoders
have the published base sizes.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor
from transformers import (
    BertConfig,
    Data2VecAudioConfig,
    HubertConfig,
    ResNetConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    set_seed,
)

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.speech.best_rq import BestRQConfig, BestRQForPreTraining
from hf_ssl.modeling.speech.data2vec2_audio import Data2Vec2AudioForPreTraining, Data2Vec2AudioPreTrainingConfig
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig
from hf_ssl.modeling.speech.data2vec_audio import Data2VecAudioForPreTraining, Data2VecAudioPreTrainingConfig
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingModel
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig
from hf_ssl.modeling.text.bert import BertPreTrainingConfig, BertPreTrainingModel
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining

Batch = dict[str, Tensor]
TARGETS = {
    "bert": 1.15,
    "best_rq": 1.15,
    "data2vec_audio": 1.6,
    "data2vec2_audio": 1.2,
    "hubert": 1.15,
    "simclr": 1.10,
    "wav2vec2": 1.15,
}


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


def best_rq() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """A Conformer of 12 layers of 576 with 8192 codes, 2 recordings of 6 seconds."""
    encoder = Wav2Vec2BertConfig(
        hidden_size=576, num_hidden_layers=12, num_attention_heads=8, intermediate_size=2048, layerdrop=0.0
    )
    config = BestRQConfig(encoder_config=encoder, quantizer_stack=4)
    batch = {"input_features": torch.randn(2, 300, 160)}
    drawn = BestRQForPreTraining.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(2)])
    return BestRQForPreTraining(config), drawn, batch


def data2vec_audio() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """data2vec base, whose teacher's pass is half a step, 2 recordings of 6 seconds."""
    config = Data2VecAudioPreTrainingConfig(encoder_config=Data2VecAudioConfig(layerdrop=0.0))
    bare = {"input_values": torch.randn(2, 16_000 * 6)}
    drawn = Data2VecAudioForPreTraining.draw_inputs(config, bare, [item_generator(0, 0, row) for row in range(2)])
    return Data2VecAudioForPreTraining(config), drawn, bare


def data2vec2_audio() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """data2vec 2.0 base, a recording of 6 seconds with its 8 masks.

    The bare encoder reads the same visible frames of the same clones. The teacher's pass over the whole recording is a
    twelfth of that: all frames once forwards, over half of them 8 times forwards and backwards.
    """
    config = Data2Vec2AudioPreTrainingConfig(encoder_config=Data2Vec2AudioConfig(layerdrop=0.0))
    waveforms = torch.randn(1, 16_000 * 6)
    drawn = Data2Vec2AudioForPreTraining.draw_inputs(config, {"input_values": waveforms}, [item_generator(0, 0, 0)])
    bare = {"input_values": waveforms, "positions": drawn["visible_positions"].flatten(0, 1)}
    return Data2Vec2AudioForPreTraining(config), drawn, bare


def simclr() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """ResNet-50, two views of 8 images of 224 pixels."""
    views = torch.randn(8, 2, 3, 224, 224)
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=ResNetConfig()))
    bare = views.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # the faster layout too
    return model, {"pixel_values": views}, {"pixel_values": bare}


def wav2vec2() -> tuple[SSLPreTrainedModel, Batch, Batch]:
    """wav2vec 2.0 base with 2 × 320 codes and 100 negatives, 2 recordings of 6 seconds."""
    config = Wav2Vec2PreTrainingConfig(encoder_config=Wav2Vec2Config(layerdrop=0.0))
    bare = {"input_values": torch.randn(2, 16_000 * 6)}
    drawn = Wav2Vec2PreTrainingModel.draw_inputs(config, bare, [item_generator(0, 0, row) for row in range(2)])
    return Wav2Vec2PreTrainingModel(config), drawn, bare


CASES: dict[str, Callable[[], tuple[SSLPreTrainedModel, Batch, Batch]]] = {
    "bert": bert,
    "best_rq": best_rq,
    "data2vec_audio": data2vec_audio,
    "data2vec2_audio": data2vec2_audio,
    "hubert": hubert,
    "simclr": simclr,
    "wav2vec2": wav2vec2,
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
        model.after_optimizer_step(0.5)  # a teacher's move
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

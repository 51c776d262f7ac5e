"""What the frames that leave speech encoders say: how many directions they use, how much of the sound, how slowly.

    python benchmarks/frame_content.py runs/embedded/hubert_seed11/encoder [ENCODER ...] [--layers]

For each encoder, and for one of the same architecture with fresh weights (seed 0), over the frames of 30 validation
recordings of the sample `speech`:

* effective rank (RankMe, as in the training's log): over how many directions they are spread;
* log-mel R²: the share of the variance of 40 log-mel bands at the same moment that a linear map of the frame explains,
  fitted (ridge, penalty 10 on standardised features) on 60 training recordings: what is left of the sound itself;
* neighbours' cosine: of a frame and the next, with the recording's mean removed: near 1, little changes in time.

Of encoders of waveforms with frames of 20 ms, which those of the recipes are. `--layers` shows every layer.
"""

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel, set_seed

import hf_ssl  # noqa: F401 - its own encoders
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.features import log_mel
from hf_ssl.data.loading import load_splits
from hf_ssl.evaluation.collapse import effective_rank

FITTED_ON, MEASURED_ON = 60, 30
BANDS, PENALTY = 40, 10.0
WINDOW, HOP = 0.032, 0.02
"""Seconds of the log-mel frames; the hop is that of the encoders' frames."""


@dataclass
class Frames:
    """Of some recordings: each layer's frames, and the log-mel frames of the same moments."""

    layers: list[list[Tensor]]
    mel: list[Tensor]


@torch.no_grad()
def frames_of(encoder: PreTrainedModel, extractor: AutoFeatureExtractor, rows: Dataset) -> Frames:
    """Run the encoder over recordings, one at a time."""
    encoder.eval()
    rate = extractor.sampling_rate
    framing = (round(WINDOW * rate), round(HOP * rate))
    layers: list[list[Tensor]] = []
    mels: list[Tensor] = []
    for row in rows:
        waveform = decode_audio(row["audio"], rate)
        inputs = extractor(waveform, sampling_rate=rate, return_tensors="pt")
        output = encoder(**inputs, output_hidden_states=True)
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        mel = log_mel(torch.from_numpy(waveform), rate, BANDS, framing)
        length = min(len(mel), states[0].shape[1])
        layers.append([state[0, :length] for state in states])
        mels.append(mel[:length])
    return Frames([list(layer) for layer in zip(*layers, strict=True)], mels)


def mel_r2(fitted: list[Tensor], fitted_mel: list[Tensor], frames: list[Tensor], mel: list[Tensor]) -> float:
    """The share of the log-mel bands' variance that a ridge regression explains."""
    train, target = torch.cat(fitted).double(), torch.cat(fitted_mel).double()
    mean, std = train.mean(dim=0), train.std(dim=0)
    train = (train - mean) / std
    penalty = PENALTY * torch.eye(train.shape[1], dtype=torch.double)
    weight = torch.linalg.solve(train.T @ train + penalty, train.T @ (target - target.mean(dim=0)))
    predicted = (torch.cat(frames).double() - mean) / std @ weight + target.mean(dim=0)
    truth = torch.cat(mel).double()
    return float(1 - (truth - predicted).square().sum() / (truth - target.mean(dim=0)).square().sum())


def neighbours_cosine(frames: list[Tensor]) -> float:
    """The mean cosine of a frame and the next, with each recording's mean removed."""
    centred = [recording - recording.mean(dim=0) for recording in frames]
    return float(torch.cat([F.cosine_similarity(one[1:], one[:-1], dim=1) for one in centred]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--layers", action="store_true", help="every layer, 0 being what the Transformer reads")
    args = parser.parse_args()
    splits = load_splits(SpeechDataArguments(path="sample:speech"), "speech")
    train, validation = splits["train"].select(range(FITTED_ON)), splits["validation"].select(range(MEASURED_ON))
    print("| encoder | layer | effective rank | log-mel R² | neighbours' cosine |\n|---|---:|---:|---:|---:|")
    for address in args.encoders:
        extractor = AutoFeatureExtractor.from_pretrained(address)
        set_seed(0)
        fresh = AutoModel.from_config(AutoConfig.from_pretrained(address))
        for name, encoder in ((address, AutoModel.from_pretrained(address)), ("fresh weights", fresh)):
            fitted, measured = (frames_of(encoder, extractor, rows) for rows in (train, validation))
            last = len(measured.layers) - 1
            for layer in range(last + 1) if args.layers else [last]:
                frames = measured.layers[layer]
                rank = effective_rank(torch.cat(frames)).item()
                r2 = mel_r2(fitted.layers[layer], fitted.mel, frames, measured.mel)
                cosine = neighbours_cosine(frames)
                print(f"| {name} | {layer} | {rank:.0f} | {r2:.2f} | {cosine:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Over how many directions the frames that leave speech encoders are spread: pretrained, and with fresh weights.

    python benchmarks/frame_rank.py runs/embedded/hubert_seed11/encoder [ENCODER ...]

The effective rank (RankMe, as in the training's log) of 1,024 frames, evenly spaced over the first 20 validation
recordings of the sample `speech`; beside it that of an encoder of the same architecture with fresh weights (seed 0).
"""

import argparse

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel, set_seed

import hf_ssl  # noqa: F401 - its own encoders
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.loading import load_splits
from hf_ssl.evaluation.collapse import effective_rank

RECORDINGS = 20


@torch.no_grad()
def rank_of(encoder: PreTrainedModel, inputs: list[dict[str, torch.Tensor]]) -> float:
    """The effective rank of the last hidden states of all recordings together."""
    encoder.eval()
    frames = torch.cat([encoder(**recording).last_hidden_state[0] for recording in inputs])
    return effective_rank(frames).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    rows = load_splits(SpeechDataArguments(path="sample:speech"), "speech")["validation"].select(range(RECORDINGS))
    print("| encoder | dimensions | effective rank | fresh weights |\n|---|---:|---:|---:|")
    for address in parser.parse_args().encoders:
        extractor = AutoFeatureExtractor.from_pretrained(address)
        rate = extractor.sampling_rate
        inputs = [
            dict(extractor(decode_audio(row["audio"], rate), sampling_rate=rate, return_tensors="pt")) for row in rows
        ]
        config = AutoConfig.from_pretrained(address)
        set_seed(0)
        fresh = AutoModel.from_config(config)
        ranks = [rank_of(model, inputs) for model in (AutoModel.from_pretrained(address), fresh)]
        print(f"| {address} | {config.hidden_size} | {ranks[0]:.0f} | {ranks[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""Trains a tiny HuBERT, with or without the online probe: `probe_tiny.py DATA OUTPUT [--probe METHOD ...]`.

Leaves the final weights in OUTPUT/model.safetensors and each rank's log in OUTPUT/log-RANK.json. With several ranks,
under `torch.distributed.run`.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.online_evaluation import online_probe
from hf_ssl.trainers.pretraining import SSLTrainer
from tests.tiny import TINY
from tests.trainers.train_tiny import NoisyCollator, Rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--probe", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, batch = TINY["hubert"]()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1  # what the training draws from the global RNG
    model.encoder.feature_extractor.eval()  # a mode of its own, as a frozen part has
    args = SSLTrainingArguments(
        output_dir=str(options.output),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        max_steps=6,
        learning_rate=1e-3,
        warmup_steps=0,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="no",
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
    )
    rows = KeyedDataset(Rows(batch, 32))
    trainer = SSLTrainer(model, args, rows, NoisyCollator(0.1), eval_dataset=rows)
    if options.probe:
        data = SpeechDataArguments(path=options.data, label_column="speaker")
        processor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
        trainer.add_callback(online_probe(trainer, data, "speech", processor, methods=options.probe))
    trainer.train()
    options.output.mkdir(exist_ok=True)
    state = {
        "log": trainer.state.log_history,
        "random": [random.random(), np.random.rand(), torch.rand(()).item()],  # noqa: NPY002 - the global one
        "modes": [module.training for module in model.modules()],
    }
    (options.output / f"log-{args.process_index}.json").write_text(json.dumps(state), encoding="utf-8")
    if trainer.is_world_process_zero():
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        save_file(weights, options.output / "model.safetensors")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()

"""One step of fine-tuning on four rows of unequal length, and the scores of eight; run by each rank.

python fine_tune_ranks.py CASES_FOLDER OUTPUT_FOLDER TASK [masked]

`masked`: three steps with SpecAugment, in the first of which the encoder is frozen.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import set_seed

from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import make_task_model
from tests.trainers.fine_tuning_cases import Cases, training

MASKS = {"mask_time_prob": 0.5, "mask_time_length": 3, "mask_channel_prob": 0.5, "mask_channel_length": 8}


def main(cases: Cases, output: Path, task: str, kind: str = "plain") -> None:
    torch.set_num_threads(1)
    masked = kind == "masked"
    steps = {"max_steps": 3, "freeze_encoder_steps": 1} if masked else {"max_steps": 1}
    settings = training(output, optim="sgd", max_grad_norm=0, **steps)
    settings.per_device_train_batch_size = 4 // settings.world_size
    arguments = FineTuningModelArguments(encoder=cases.encoder(task), task=task, **(MASKS if masked else {}))
    data = prepare_task(arguments, cases.data(task, max_train_items=4))
    every = prepare_task(arguments, cases.data(task))
    set_seed(0)
    trainer = FineTuningTrainer(make_task_model(arguments, data.config_updates), settings, task, data)
    trainer.train()
    scores = trainer.evaluate(every.splits["train"])
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), output / "weights.pt")
        kept = {name: value for name, value in scores.items() if "second" not in name and "time" not in name}
        (output / "scores.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main(Cases(Path(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:])

"""Trains a row of `tests.tiny.TINY` with `SSLTrainer`, in a process of its own.

    train_tiny.py OBJECTIVE OUTPUT [options]

Leaves the final weights in OUTPUT/model.safetensors; those of rank R > 0, under `torch.distributed.run`, in
OUTPUT/model-R.safetensors.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.data.seeding import item_generator
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.pretraining import SSLTrainer
from tests.tiny import TINY


class Rows:
    """A batch as a data set of its rows, over and over."""

    def __init__(self, batch, num_items):
        self.batch, self.num_items = batch, num_items

    def __len__(self):
        return self.num_items

    def __getitem__(self, index):
        size = len(next(iter(self.batch.values())))
        return {name: value[index % size] for name, value in self.batch.items()}


class ShuffledStream:
    """Rows as a stream that is in another order in each epoch, like `datasets.IterableDataset.shuffle`."""

    def __init__(self, rows):
        self.rows, self.epoch = rows, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = torch.randperm(len(self.rows), generator=item_generator(1, self.epoch, 0))
        return (self.rows[index] for index in order.tolist())


class NoisyCollator:
    """Stacks rows and, like a real collator, draws from each item's generator."""

    draw = None

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, examples):
        generators = [item_generator(0, *example["key"]) for example in examples]
        batch = {name: torch.stack([e[name] for e in examples]) for name in examples[0] if name != "key"}
        for name in ("pixel_values", "input_values"):
            if name in batch and self.noise:
                noise = [torch.randn(batch[name].shape[1:], generator=generator) for generator in generators]
                batch[name] = batch[name] + self.noise * torch.stack(noise)
        if "item_indices" in batch:
            batch["item_indices"] = torch.tensor([e["key"].index for e in examples])
        return batch


class PlainCollator:
    """Images as an encoder reads them: the first view of each, with noise that is always the same of an item."""

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, examples):
        images = [e["pixel_values"] if e["pixel_values"].dim() == 3 else e["pixel_values"][0] for e in examples]
        generators = [item_generator(1, 0, e["key"].index) for e in examples]
        noise = [torch.randn(image.shape, generator=g) for image, g in zip(images, generators, strict=True)]
        return {"pixel_values": torch.stack(images) + self.noise * torch.stack(noise)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("objective")
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--learning-rate", type=float, default=1.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--save-steps", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--layerdrop", type=float, default=0.0)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--cache-chunk-size", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, batch = TINY[options.objective]()
    if model.needs_item_indices:
        set_seed(0)
        model.config.num_items = options.items
        model = type(model)(model.config)
    if options.layerdrop:
        model.encoder.config.layerdrop = options.layerdrop
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = options.dropout
    args = SSLTrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        max_steps=options.steps,
        optimizer=options.optimizer,
        momentum=0.0 if options.optimizer == "sgd" else 0.9,
        learning_rate=options.learning_rate,
        schedule="constant",
        warmup_steps=0,
        max_grad_norm=0.0,
        use_cpu=True,
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 500,
        logging_steps=2,
        disable_tqdm=True,
        dataloader_num_workers=options.workers,
        gradient_checkpointing=options.checkpointing,
        eval_strategy="steps" if options.best else "no",
        eval_steps=options.save_steps or None,
        load_best_model_at_end=options.best,
        cache_chunk_size=options.cache_chunk_size,
    )
    rows = Rows(batch, options.items)
    train = KeyedIterableDataset(ShuffledStream(rows)) if options.stream else KeyedDataset(rows)
    collator, plain = NoisyCollator(options.noise), PlainCollator(options.noise)
    trainer = SSLTrainer(model, args, train, collator, eval_dataset=KeyedDataset(rows), plain_collator=plain)
    Path(options.output).mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(options.output))
    name = "model" if trainer.is_world_process_zero() else f"model-{args.process_index}"
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, Path(options.output) / f"{name}.safetensors")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()

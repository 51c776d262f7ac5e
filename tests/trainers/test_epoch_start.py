"""What happens between epochs: clusters that a killed and resumed run, and two ranks, agree about."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_ssl.data.keyed import ItemKey, KeyedDataset
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.epoch_start import OverAllItems
from hf_ssl.trainers.pretraining import SSLTrainer
from tests.tiny import TINY
from tests.trainers.comparing import assert_identical, weights
from tests.trainers.test_pretraining import train
from tests.trainers.train_tiny import NoisyCollator, PlainCollator, Rows

CLUSTERING = [name for name in TINY if TINY[name]()[0].needs_item_indices]

# 42 items in batches of 8: five steps an epoch, and two items that are left out of each
RUN = ["--items=42", "--optimizer=sgd", "--learning-rate=0.1", "--noise=0.3", "--steps=7"]


def trainer_of(objective: str, folder: Path, num_items: int = 8, **fields: object) -> SSLTrainer:
    model, batch = TINY[objective]()
    model.config.num_items = num_items
    set_seed(0)
    model = type(model)(model.config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    defaults = {"per_device_train_batch_size": 4, "max_steps": 6, "save_strategy": "no", "learning_rate": 1e-3}
    args = SSLTrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, report_to="none", **defaults | fields
    )
    rows = KeyedDataset(Rows(batch, num_items))
    return SSLTrainer(model, args, rows, NoisyCollator(0.3), eval_dataset=rows, plain_collator=PlainCollator(0.3))


def epochs_begun(trainer: SSLTrainer) -> list[int]:
    """A list to which each call of `start_epoch` adds its epoch."""
    begun, start_epoch = [], trainer.model.start_epoch

    def noted(epoch, *arguments):
        begun.append(epoch)
        return start_epoch(epoch, *arguments)

    trainer.model.start_epoch = noted
    return begun


def test_the_clustering_objectives_are_found() -> None:
    assert "deepcluster_v2" in CLUSTERING
    assert "simclr" not in CLUSTERING


@pytest.mark.parametrize("objective", CLUSTERING)
def test_resumed_within_an_epoch_a_run_ends_with_the_same_weights(objective: str, tmp_path: Path) -> None:
    """Five steps an epoch: stopped within the first, within the second, and at its end."""
    fields = {"num_items": 42, "per_device_train_batch_size": 8, "schedule": "constant"}
    whole = trainer_of(objective, tmp_path / "whole", max_steps=11, **fields)
    begun = epochs_begun(whole)
    whole.train()
    assert begun == [0, 1, 2]
    for steps, expected in ((2, [0]), (7, [1]), (10, []), (11, [2])):
        torch.manual_seed(steps)  # a new process does not know the random numbers of the last
        part = trainer_of(
            objective, tmp_path / "parts", max_steps=steps, save_strategy="steps", save_steps=steps, **fields
        )
        begun = epochs_begun(part)
        part.train(resume_from_checkpoint=get_last_checkpoint(tmp_path / "parts") if steps > 2 else None)
        assert begun == expected
    assert_identical(whole.model.state_dict(), part.model.state_dict())


@pytest.mark.parametrize("objective", CLUSTERING)
def test_two_ranks_of_four_are_one_batch_of_eight(objective: str, tmp_path: Path) -> None:
    """Seven steps, over the clustering of the second epoch; all that the ranks keep is the same on both."""
    whole = weights(train(objective, tmp_path / "whole", *RUN))
    ranks = weights(train(objective, tmp_path / "ranks", *RUN, "--batch-size=4", ranks=2))
    assert_identical(ranks, load_file(tmp_path / "ranks" / "model-1.safetensors"))
    assert torch.equal(ranks["assignments"], whole["assignments"])
    for name, value in whole.items():
        torch.testing.assert_close(ranks[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", CLUSTERING)
def test_accumulation_has_as_many_epochs(objective: str, tmp_path: Path) -> None:
    trainer = trainer_of(objective, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    begun = epochs_begun(trainer)
    trainer.train()
    assert begun == [0, 1, 2]
    assert trainer.model.assignments.min() >= 0


def test_items_come_as_often_as_the_objective_says_and_the_optimiser_forgets_what_begins_anew(tmp_path: Path) -> None:
    trainer = trainer_of("deepcluster", tmp_path, optimizer="sgd", max_steps=4)
    drawn, forgotten = [], []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            sampler = kwargs["train_dataloader"].batch_sampler
            drawn.append(torch.equal(torch.from_numpy(sampler.repeats), trainer.model.item_repeats()))
            forgotten.append(trainer.model.classifier.weight not in kwargs["optimizer"].state)

        def on_step_end(self, args, state, control, **kwargs):
            forgotten.append(trainer.model.classifier.weight not in kwargs["optimizer"].state)

    trainer.add_callback(Watch())
    trainer.train()
    assert drawn == [True, True]
    assert forgotten == [True, False, False, True, False, False]


@pytest.mark.parametrize("objective", CLUSTERING)
def test_items_of_validation_have_no_clusters_of_training(objective: str, tmp_path: Path) -> None:
    """Whatever is kept of the training items, the validation loss is the same."""
    trainer = trainer_of(objective, tmp_path)
    loss = trainer.evaluate()["eval_loss"]
    trainer.model.assignments.zero_()
    assert trainer.evaluate()["eval_loss"] == loss


@pytest.mark.parametrize("augmented", [False, True])
def test_over_all_items_in_their_order(augmented: bool, tmp_path: Path) -> None:
    """Eight items in batches of three: the last batch is filled with the first items, which come once all the same."""
    trainer = trainer_of("deepcluster_v2", tmp_path, per_device_train_batch_size=3)
    sizes = []

    def compute(batch):
        sizes.append(len(batch["pixel_values"]))
        return batch["pixel_values"]

    before = torch.get_rng_state()
    found = OverAllItems(trainer, 0)(compute, augmented=augmented)
    assert torch.equal(torch.get_rng_state(), before)
    assert sizes == [3, 3, 3]
    items = [trainer.train_dataset[ItemKey(0, index, 1)] for index in range(8)]
    collator = NoisyCollator(0.3) if augmented else PlainCollator(0.3)
    assert torch.equal(found, collator(items)["pixel_values"])

"""What happens between epochs: an objective looks at all training items, and may draw them unequally often."""

# N training items, B items of a batch of one process, R processes

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ssl.data.keyed import ItemKey
from hf_ssl.data.prepared import Batch
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.gather import gather_with_gradient, num_processes, process_rank

if TYPE_CHECKING:
    from hf_ssl.trainers.pretraining import SSLTrainer


class EpochStart(TrainerCallback):
    """Calls an objective's `start_epoch` and has the sampler draw items as its `item_repeats` says.

    A run that is resumed within an epoch does not start that epoch again: all that `start_epoch` found out is in the
    checkpoint.

    Args:
        trainer ([`SSLTrainer`]): whose items, batches and model they are.
    """

    def __init__(self, trainer: "SSLTrainer") -> None:
        self.trainer = trainer

    def on_epoch_begin(  # noqa: D102 - the trainer's event
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model, loader = self.trainer.model, kwargs["train_dataloader"]
        epoch, steps_done = divmod(state.global_step, len(loader) // args.gradient_accumulation_steps)
        if steps_done == 0:
            # an item of its own, after all the others
            generator = item_generator(self.trainer.data_seed, epoch, len(loader.dataset))
            with own_random_numbers(model.device):
                fresh = model.start_epoch(epoch, OverAllItems(self.trainer, epoch), generator)
            broadcast(model)
            for parameter in fresh:
                kwargs["optimizer"].state.pop(parameter, None)
        repeats = model.item_repeats()
        assert isinstance(loader.batch_sampler, EpochBatchSampler)
        loader.batch_sampler.set_repeats(None if repeats is None else repeats.cpu().numpy())


class OverAllItems:
    """Computes something of every training item; see [`hf_ssl.modeling.blocks.over_items.OverItems`].

    Args:
        trainer ([`SSLTrainer`]): whose items they are.
        epoch (`int`): in which the views of an item are drawn. They are other views than those it has in training.
    """

    def __init__(self, trainer: "SSLTrainer", epoch: int) -> None:
        self.trainer, self.epoch = trainer, epoch

    @torch.no_grad()
    def __call__(self, compute: Callable[[Batch], Tensor], *, augmented: bool) -> Tensor:
        """The rows of all items, in their order, on the CPU."""
        trainer = self.trainer
        dataset = trainer.train_dataset
        loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=self._batches(len(dataset), trainer.args.per_device_train_batch_size),
            collate_fn=trainer.data_collator if augmented else trainer.plain_collator,
            num_workers=trainer.args.dataloader_num_workers,
            generator=torch.Generator(),  # else the loader would draw its workers' seed from the global RNG
        )
        rows = []
        for batch in tqdm(loader, "all items", leave=False, disable=trainer.args.disable_tqdm or process_rank() > 0):
            inputs = trainer._prepare_inputs(batch)
            if augmented and trainer.batch_transform is not None:
                inputs = trainer.batch_transform(inputs)
            with trainer.compute_loss_context_manager():
                # no gradient is recorded here, so this is a plain gather
                rows.append(gather_with_gradient(compute(inputs)).float().cpu())
        return torch.cat(rows)[: len(dataset)]

    def _batches(self, num_items: int, batch_size: int) -> list[list[ItemKey]]:
        """Those of this process: of R B items in their order, each process takes B; the first items fill the last."""
        joint = batch_size * num_processes()
        first, copy = process_rank() * batch_size, 1
        return [
            [
                ItemKey(self.epoch, index % num_items, copy)
                for index in range(start + first, start + first + batch_size)
            ]
            for start in range(0, num_items, joint)
        ]


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Afterwards the global random number generators stand as before: dropout of the training does not notice."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def broadcast(model: nn.Module) -> None:
    """All processes have computed the same; on accelerators that may not round alike, the first one's counts."""
    if dist.is_initialized():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.data, src=0)

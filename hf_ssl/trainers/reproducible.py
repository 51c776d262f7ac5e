"""What pretraining and fine-tuning share beyond checkpoints: batches known by (seed, epoch), and the schedules."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.data.prepared import Batch
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.errors import InputError
from hf_ssl.trainers.arguments import ReproducibleTrainingArguments
from hf_ssl.trainers.checkpointing import AtomicCheckpointTrainer
from hf_ssl.trainers.schedules import make_schedule


class EpochDataLoader(DataLoader):
    """A data loader whose batches depend on the epoch that the trainer announces."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        assert isinstance(self.batch_sampler, EpochBatchSampler)
        self.batch_sampler.set_epoch(epoch)


class ReproducibleTrainer(AtomicCheckpointTrainer):
    """A trainer with the batches and the schedules of [`ReproducibleTrainingArguments`]."""

    args: ReproducibleTrainingArguments
    optimizer: Optimizer | None
    lr_scheduler: LambdaLR | None

    def epoch_data_loader(
        self,
        dataset: KeyedDataset,
        collator: Callable[[list[dict[str, Any]]], Batch],
        *,
        batch_size: int,
        lengths: Sequence[float] | None,
        repeats: Sequence[float] | None = None,
    ) -> EpochDataLoader:
        """Training batches of this rank; see [`EpochBatchSampler`].

        Args:
            dataset ([`KeyedDataset`]): the training items.
            collator (`Callable`): items with their keys to a batch.
            batch_size (`int`): items a batch and rank, where `training.max_batch_length` is not given.
            lengths (`Sequence[float]`, *optional*): of the items, for batches of like length.
            repeats (`Sequence[float]`, *optional*): how often each item comes in an epoch, on average.

        Raises:
            InputError: for a budget of lengths where items have none, or data that does not fill a batch on each rank.
        """
        if self.args.max_batch_length is not None and lengths is None:
            raise InputError(
                "training.max_batch_length is for items that have a length, such as recordings; give "
                "training.per_device_train_batch_size instead."
            )
        sampler = EpochBatchSampler(
            len(dataset),
            batch_size,
            seed=self.data_seed,
            lengths=lengths,
            max_batch_length=self.args.max_batch_length,
            rank=self.args.process_index,
            num_replicas=self.args.world_size,
            steps_multiple=self.args.gradient_accumulation_steps,
            repeats=repeats,
        )
        return EpochDataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    @property
    def data_seed(self) -> int:
        """The seed of the batches, and of what is drawn for an item in an epoch."""
        return self.args.data_seed if self.args.data_seed is not None else self.args.seed

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """See [`make_schedule`]."""
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        if self.lr_scheduler is None:
            self.lr_scheduler = make_schedule(
                self.args.schedule,
                optimizer,
                warmup=self.args.get_warmup_steps(num_training_steps),
                total=num_training_steps,
                hold_share=self.args.hold_share,
                final_scale=self.args.final_learning_rate_scale,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

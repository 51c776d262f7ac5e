"""What each modality's `prepare_…` hands to the training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from hf_ssl.data.keyed import KeyedDataset, KeyedIterableDataset
from hf_ssl.modeling.blocks.pretrained import Processor

Batch = dict[str, Tensor]


class Collator(Protocol):
    """Builds a batch from items; picklable, since it runs in the workers of the data loader.

    `draw` is the objective's [`SSLPreTrainedModel.draw_inputs`] with its config bound, set once the config is known.
    """

    draw: Callable[[Batch, list[torch.Generator]], Batch] | None

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:
        """Items, each with its key, to one batch."""
        ...


@dataclass
class PreparedData:
    """Data ready for pretraining.

    Args:
        train ([`KeyedDataset`] or [`KeyedIterableDataset`]): the training items.
        validation ([`KeyedDataset`], *optional*): items for the validation loss.
        collator ([`Collator`]): items to batch.
        processor ([`Processor`]): the encoder's preprocessor, saved beside it.
        config_updates (`dict[str, Any]`): what the data decides of the objective's config (vocabulary size, number of
            clusters); `encoder_config` is merged, the rest set.
        lengths (`list[float]`, *optional*): the length of each training item (seconds of speech, tokens of text), for
            batches of items of like length.
        repeats (`Sequence[float]`, *optional*): how often each training item comes in an epoch, on average; by default
            once.
        batch_transform (`Callable`, *optional*): the part of the collation that runs on the training device.
        num_skipped (`int`): broken items left out because the user asked for it.
    """

    train: KeyedDataset | KeyedIterableDataset
    validation: KeyedDataset | None
    collator: Collator
    processor: Processor
    config_updates: dict[str, Any] = field(default_factory=dict)
    lengths: list[float] | None = None
    repeats: Sequence[float] | None = None
    batch_transform: Callable[[Batch], Batch] | None = None
    num_skipped: int = 0

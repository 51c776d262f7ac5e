"""Large contrastive batches in little memory: cached gradients (GradCache, Gao et al. 2021, arXiv:2101.06983).

A contrastive loss compares all images of a batch, so gradient accumulation does not enlarge it. But the encoder knows
each image by itself, and only the features are compared. So the images are encoded in chunks:

1. all chunks are encoded, and of each only the features are kept;
2. the loss over the whole batch gives the gradient with respect to all features;
3. chunk by chunk the images are encoded again, now for the encoder's gradient, with the same dropout.

The gradient is that of the whole batch; the memory for the encoder's activations is that of one chunk, and the price
is one more pass of the encoder. Steps 1 and 3 are activation checkpointing with the chunk as its unit: autograd comes
to the chunks one after the other, and encodes each again at that moment. Steps 2 and 3 are thus one backward pass,
which `DistributedDataParallel`, gradient accumulation and mixed precision treat as any other.
"""

# B images of this process

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.views import EncodedViews


@runtime_checkable
class EmbedsThenCompares(Protocol):
    """An objective whose `forward` is `embed`, then `compare`."""

    encoder: PreTrainedModel

    def embed(self, *inputs: Any, **more: Any) -> EncodedViews:
        """The encoders' part, which knows each image by itself and changes nothing."""

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, with what is done once a batch."""


def check_gradients_can_be_cached(model: PreTrainedModel) -> None:
    """Raise `InputError` for a model whose gradient would not be that of the whole batch."""
    if not isinstance(model, EmbedsThenCompares):
        raise InputError(
            f"A {type(model).__name__} does not compare the images of a batch by their features alone; leave "
            "training.cache_chunk_size out."
        )
    if any(isinstance(module, _BatchNorm) for module in model.encoder.modules()):
        raise InputError(
            f"The encoder '{model.encoder.config.model_type}' has batch normalisation, whose statistics of a chunk "
            "are not those of the batch; leave training.cache_chunk_size out, or choose another encoder (vit, swin, "
            "convnext ...)."
        )


@contextmanager
def cached_gradients(model: EmbedsThenCompares, chunk_size: int) -> Iterator[None]:
    """Within it, `model` encodes its images in chunks and keeps no activations of the encoder for the backward pass.

    The backward pass may come later.

    Args:
        model ([`EmbedsThenCompares`]): one that [`check_gradients_can_be_cached`] lets pass.
        chunk_size (`int`): images (with all their views) that are encoded at a time.
    """
    model.embed = _in_chunks(model.embed, chunk_size)  # type: ignore[method-assign] # of this object, not of its class
    try:
        yield
    finally:
        del model.embed


def _in_chunks(embed: Callable[..., EncodedViews], chunk_size: int) -> Callable[..., EncodedViews]:
    """The same function, which goes through the rows of its tensors in chunks; per-layer outputs it leaves out."""

    def embed_in_chunks(*inputs: Any, **more: Any) -> EncodedViews:
        leaves, structure = tree_flatten((inputs, more))
        num_rows = len(next(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        num_chunks = -(-num_rows // chunk_size)
        split = [leaf.split(chunk_size) if isinstance(leaf, Tensor) else [leaf] * num_chunks for leaf in leaves]
        chunks = []
        for chunk in zip(*split, strict=True):
            rows, more_rows = tree_unflatten(chunk, structure)
            # it keeps the state of the random generators, and of autocast, for the second pass
            chunks.append(checkpoint(embed, *rows, use_reentrant=False, **more_rows))
        names = [name for name, value in chunks[0].items() if isinstance(value, Tensor)]
        joined: dict[str, Any] = {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}
        return type(chunks[0])(**joined)

    return embed_in_chunks

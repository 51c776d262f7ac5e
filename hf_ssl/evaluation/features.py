"""Frozen features: one vector an item from any layer of an encoder."""

# B batch, T positions, D hidden, N items, L layers (0 is what enters the first, L the output)

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling.blocks.mel_front_end import FRONT_ENDS, mel_front_end
from hf_ssl.modeling.blocks.pooling import check_pooling, pool


@contextmanager
def frozen(encoder: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The encoder in evaluation mode and without gradients; each of its modules has its own mode back afterwards."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.no_grad():
            yield encoder
    finally:
        for module, mode in modes:
            module.training = mode


def feature_loader(
    dataset: Dataset, collator: LabelledCollator, *, batch_size: int = 32, num_workers: int = 0
) -> DataLoader:
    """The rows of a data set in order.

    Speech comes one recording at a time: padding would enter a group norm, and recordings of 1 and of 70 seconds in
    one batch are mostly padding.
    """
    if collator.modality == "speech":
        batch_size = 1
    return DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=collator,
        num_workers=num_workers,
        generator=torch.Generator(),  # else the loader would draw its workers' seed from the global RNG
    )


def extract_features(
    encoder: PreTrainedModel,
    loader: DataLoader,
    *,
    layers: str | Sequence[int] = "last",
    pooling: str = "mean",
    description: str = "features",
) -> tuple[dict[int, Tensor], Tensor]:
    """Pooled hidden states of a frozen encoder, with the classes of the items.

    Args:
        encoder (`PreTrainedModel`): any transformers encoder; used on the device that it is on.
        loader (`DataLoader`): batches of a [`LabelledCollator`] with `labels`.
        layers (`str` or `Sequence[int]`): `"last"`, `"all"`, or numbers: 0 is what enters the first layer, L the
            encoder's output (after its final norm), -1 the same; the stages of a convolutional encoder count as
            layers.
        pooling (`str`): `"mean"` over the positions that are not padding, or `"cls"`.
        description (`str`): of the progress bar.

    Returns:
        `tuple[dict[int, Tensor], Tensor]`: features (N, D) by layer number, and labels (N,); fp32 and int64, on the
        CPU.

    Raises:
        InputError: for a layer that the encoder does not have, an unknown pooling, or features that are not finite.
    """
    check_pooling(pooling)
    pooled: dict[int, list[Tensor]] = {}
    labels = []
    with frozen(encoder):
        for batch in tqdm(loader, desc=description, leave=False, disable=None):
            labels.append(batch["labels"])
            inputs = {name: tensor.to(encoder.device) for name, tensor in batch.items() if name != "labels"}
            for layer, hidden in hidden_states(encoder, inputs, layers).items():
                mask = position_mask(encoder, inputs.get("attention_mask"), hidden)
                pooled.setdefault(layer, []).append(pool(hidden, pooling, mask).float().cpu())
    features = {layer: torch.cat(parts) for layer, parts in pooled.items()}
    for layer, tensor in features.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"The features of layer {layer} of the {type(encoder).__name__} hold NaN or infinity; its training "
                "has diverged, so take an earlier checkpoint."
            )
    return features, torch.cat(labels)


def hidden_states(encoder: PreTrainedModel, inputs: dict[str, Any], layers: str | Sequence[int]) -> dict[int, Tensor]:
    """The wanted hidden states (B, T, D) or (B, D, H, W) of one batch, by layer number."""
    output = encoder(**inputs, output_hidden_states=True)
    # The output takes the place of the last layer's, which some encoders give before the final norm.
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    return {layer: states[layer] for layer in layer_numbers(layers, len(states) - 1)}


def layer_numbers(layers: str | Sequence[int], last: int) -> list[int]:
    """The numbers, in [0, last], that a choice of layers means.

    Raises:
        InputError: for a number out of range or another word than `"last"` and `"all"`.
    """
    if layers == "last":
        return [last]
    if layers == "all":
        return list(range(last + 1))
    if isinstance(layers, str):
        raise unknown_name("choice of layers", layers, ("last", "all"))
    for layer in layers:
        if not -last - 1 <= layer <= last:
            raise InputError(f"There is no layer {layer}; the encoder has layers 0 to {last}.")
    return sorted({layer % (last + 1) for layer in layers})


def position_mask(encoder: PreTrainedModel, attention_mask: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Which positions of a hidden state (B, T, D) are not padding, (B, T), from the mask of the input.

    Of encoders that subsample; each family of transformers has its own way to say how.
    """
    if attention_mask is None or attention_mask.shape[1] == hidden.shape[1]:
        return attention_mask
    if encoder.config.model_type in FRONT_ENDS:
        front_end = mel_front_end(encoder.config)
        frames = torch.tensor([front_end.num_frames(int(row)) for row in attention_mask.sum(dim=1)])
        return torch.arange(hidden.shape[1], device=hidden.device) < frames.to(hidden.device)[:, None]
    return encoder._get_feature_vector_attention_mask(hidden.shape[1], attention_mask)  # samples to frames

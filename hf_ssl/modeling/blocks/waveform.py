"""What objectives on waveform encoders share: encoders that are given their mask, and masks for every recording.

The wav2vec 2.0 family of transformers: a CNN turns the waveform into frames, a Transformer (`encoder.encoder`) reads
them, and `encoder.masked_spec_embed` stands for a masked frame.
"""

# B recordings, S samples, T frames, D hidden size

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import num_frames, receptive_field
from hf_ssl.modeling.blocks.span_masking import span_mask

FAMILY = "hubert, wav2vec2, wavlm, unispeech-sat, data2vec-audio, sew"

ENCODER_MASK_TIME_PROB = 0.05
"""transformers' default: an encoder whose own share is 0 would be built without a mask embedding."""


def adapt_waveform_encoder(encoder_config: PreTrainedConfig, objective: str) -> None:
    """Make an encoder draw no mask of its own, and have a mask embedding.

    Args:
        encoder_config (`PreTrainedConfig`): changed in place.
        objective (`str`): its title, for the message.

    Raises:
        InputError: for an encoder that is not of the wav2vec 2.0 family.
    """
    fields = encoder_config.to_dict()
    if "conv_kernel" not in fields or "mask_time_prob" not in fields:
        raise InputError(
            f"The encoder '{fields['model_type']}' does not read waveforms through a CNN; {objective} needs one of "
            f"the wav2vec 2.0 family ({FAMILY})."
        )
    encoder_config.apply_spec_augment = False
    if encoder_config.mask_time_prob == 0:
        encoder_config.mask_time_prob = ENCODER_MASK_TIME_PROB


def masked_frames(encoder: PreTrainedModel, mask_time_indices: Tensor) -> AbstractContextManager[None]:
    """Lets the Transformer of an encoder read the mask embedding instead of the masked frames.

    A hook that lives for one forward pass. The encoder's own way (its argument `mask_time_indices`) assigns by a
    boolean mask, for which the host waits for the accelerator.

    Args:
        encoder (`PreTrainedModel`): of the wav2vec 2.0 family, its own SpecAugment switched off.
        mask_time_indices (boolean `Tensor` of shape `(B, T)`): `True` = masked.
    """

    def mask(hidden: Tensor) -> Tensor:
        return torch.where(mask_time_indices[..., None], encoder.masked_spec_embed.to(hidden.dtype), hidden)

    return _changed_input(encoder.encoder, mask)


def masked_channels(encoder: PreTrainedModel, mask_channel_indices: Tensor) -> AbstractContextManager[None]:
    """Lets the Transformer of an encoder read zeros in the masked channels; otherwise as [`masked_frames`].

    Args:
        encoder (`PreTrainedModel`): of the wav2vec 2.0 family, its own SpecAugment switched off.
        mask_channel_indices (boolean `Tensor` of shape `(B, D)`): `True` = masked, in all frames of the row.
    """
    return _changed_input(encoder.encoder, lambda hidden: hidden.masked_fill(mask_channel_indices[:, None], 0))


def changed_features(encoder: PreTrainedModel, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Lets an encoder project other features than those of its CNN; otherwise as [`masked_frames`].

    Args:
        encoder (`PreTrainedModel`): of the wav2vec 2.0 family, see [`feature_projection`].
        change (`Callable`): takes the normalised features of all frames, (B, T, C), none of them masked, and gives
            what is projected in their place, of the same shape.
    """
    return _changed_input(feature_projection(encoder), change)


def feature_projection(encoder: PreTrainedModel) -> nn.Linear:
    """The layer that brings the normalised output of the CNN to the hidden size.

    Raises:
        InputError: for an encoder that has none, as a SEW whose CNN has the hidden size already.
    """
    modules = dict(encoder.named_modules())
    for name in ("feature_projection.projection", "feature_projection"):
        if isinstance(modules.get(name), nn.Linear):
            return modules[name]
    raise InputError(
        f"The encoder '{encoder.config.model_type}' has no projection between its CNN and its Transformer; give "
        "another last number in conv_dim than hidden_size."
    )


@contextmanager
def _changed_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        return (change(hidden), *rest)

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def frames_of_rows(encoder_config: PreTrainedConfig, batch: dict[str, Tensor]) -> tuple[list[int], int]:
    """How many frames each recording of a batch has, and how many the batch has with its padding.

    Args:
        encoder_config (`PreTrainedConfig`): of the wav2vec 2.0 family.
        batch (`dict[str, Tensor]`): `input_values` (B, S), and `attention_mask` (B, S) where rows are padded.

    Raises:
        InputError: for a recording without a single frame.
    """
    num_rows, num_samples = batch["input_values"].shape
    samples = [num_samples] * num_rows
    if "attention_mask" in batch:
        samples = batch["attention_mask"].sum(dim=1).tolist()
    frames = [num_frames(encoder_config, row) for row in samples]
    if min(frames) == 0:
        raise InputError(
            f"A waveform of {min(samples)} samples is shorter than the {receptive_field(encoder_config)} of a frame; "
            "raise data.min_seconds."
        )
    return frames, num_frames(encoder_config, num_samples)


def draw_span_masks(
    frames: list[int],
    num_columns: int,
    *,
    probability: float,
    length: int,
    min_masks: int,
    generators: list[torch.Generator],
) -> Tensor:
    """The mask of every recording ([`span_mask`]), each from its own generator.

    Args:
        frames (`list[int]`): of each recording.
        num_columns (`int`): T, frames of the batch; those after a recording's end are not masked.
        probability (`float`): masked share before overlap.
        length (`int`): frames a span.
        min_masks (`int`): the least number of spans.
        generators (`list[torch.Generator]`): one a row.

    Returns:
        boolean `Tensor` of shape `(B, T)`.
    """
    mask = torch.zeros(len(frames), num_columns, dtype=torch.bool)
    for row, (num_row_frames, generator) in enumerate(zip(frames, generators, strict=True)):
        mask[row, :num_row_frames] = span_mask(num_row_frames, probability, length, min_masks, generator)
    return mask


def draw_frame_masks(
    config: Any, batch: dict[str, Tensor], generators: list[torch.Generator]
) -> tuple[list[int], Tensor]:
    """The masks of a batch of waveforms as an objective's config has them.

    Args:
        config ([`SSLConfig`]): with `encoder_config`, `mask_time_prob`, `mask_time_length` and `mask_time_min_masks`.
        batch (`dict[str, Tensor]`): see [`frames_of_rows`].
        generators (`list[torch.Generator]`): one a row.

    Returns:
        the frames of each recording, and the boolean mask of shape `(B, T)`.

    Raises:
        InputError: for a recording without a single frame.
    """
    frames, num_columns = frames_of_rows(config.encoder_config, batch)
    mask = draw_span_masks(
        frames,
        num_columns,
        probability=config.mask_time_prob,
        length=config.mask_time_length,
        min_masks=config.mask_time_min_masks,
        generators=generators,
    )
    return frames, mask

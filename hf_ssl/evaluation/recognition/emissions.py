"""What a CTC model says of each frame of recordings."""

# B recordings, T frames, V tokens

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from hf_ssl.data.labelled import LabelledCollator, reads_padding
from hf_ssl.evaluation.features import frozen
from hf_ssl.modeling.blocks.front_end import frames_of_inputs

SECONDS_AT_ONCE = 60.0


def emissions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    recordings: Dataset,
    *,
    max_batch_seconds: float = SECONDS_AT_ONCE,
    description: str = "emissions",
) -> list[np.ndarray]:
    """The model's ln P of every token at every frame.

    Recordings of like length are read together, and frames of padding cut off; encoders that read padding
    ([`reads_padding`]) read one recording at a time.

    Args:
        model (`PreTrainedModel`): with a CTC head; used on the device that it is on, without dropout.
        processor (`ProcessorMixin`): its feature extractor and tokenizer.
        recordings (`Dataset`): with `audio`, undecoded, and `length` in seconds; see [`hf_ssl.data.usable.usable`].
        max_batch_seconds (`float`): of the recordings in a batch, padding included; a longer one is read alone.
        description (`str`): of the progress bar.

    Returns:
        `list[np.ndarray]`: for each recording, in order, (T, V), float32.
    """
    extractor = processor.feature_extractor
    collator = LabelledCollator(modality="speech", processor=extractor)
    audio = recordings.select_columns(["audio"])
    limit = 0.0 if reads_padding(processor) else max_batch_seconds
    found: list[np.ndarray | None] = [None] * len(recordings)
    with frozen(model), tqdm(total=len(recordings), desc=description, leave=False, disable=None) as progress:
        for rows in like_lengths(recordings["length"], limit):
            batch = {name: tensor.to(model.device) for name, tensor in collator([audio[row] for row in rows]).items()}
            log_probs = model(**batch).logits.float().log_softmax(dim=-1).cpu()  # (B, T, V)
            for row, values, length in zip(rows, log_probs, num_frames(model, batch, log_probs), strict=True):
                found[row] = values[:length].numpy().copy()
            progress.update(len(rows))
    return [values for values in found if values is not None]


def num_frames(model: PreTrainedModel, batch: dict[str, Tensor], log_probs: Tensor) -> list[int]:
    """Frames of each recording of a batch, those of padding left out."""
    if "attention_mask" not in batch:
        return [log_probs.shape[1]] * len(log_probs)
    inputs = batch["attention_mask"].sum(dim=-1)
    if model.config.to_dict().get("add_adapter"):  # further convolutions, after the Transformer
        return model._get_feat_extract_output_lengths(inputs).tolist()
    return frames_of_inputs(model.base_model.config, inputs).tolist()


def like_lengths(lengths: Sequence[float], limit: float) -> Iterator[list[int]]:
    """The rows of items, from long to short, in batches of which number × longest is at most `limit`, or of one."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch

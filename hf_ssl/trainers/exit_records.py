"""What the exits of a fine-tuned model say of a split: collected once, for any policy at any threshold."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction, Wav2Vec2Processor

from hf_ssl.data.labelled import reads_padding
from hf_ssl.errors import unknown_name
from hf_ssl.evaluation.early_exit.records import CLASSES, RECORDINGS, WORDS, ExitRecords
from hf_ssl.evaluation.early_exit.timing import leaving
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.early_exit.base import EarlyExitModel
from hf_ssl.modeling.early_exit.policies import NEVER, SCORES, exit_scores
from hf_ssl.trainers.scoring import item_errors
from hf_ssl.trainers.task_data import TaskData


def exit_batches(
    model: EarlyExitModel, data: TaskData, split: str, batch_size: int = 32
) -> Iterator[dict[str, Tensor]]:
    """The batches of a split, with labels, on the model's device.

    Args:
        model ([`EarlyExitModel`]): that reads them.
        data ([`TaskData`]): the splits.
        split (`str`): its name.
        batch_size (`int`): items at once; recordings of an encoder that reads padding come one at a time.

    Raises:
        InputError: for a split that there is not.
    """
    if split not in data.splits:
        raise unknown_name("split of the data", split, data.splits)
    size = 1 if reads_padding(data.processor) else batch_size
    for batch in DataLoader(data.splits[split], batch_size=size, collate_fn=data.collator):
        yield {name: tensor.to(model.device) for name, tensor in batch.items()}


def exit_records(model: EarlyExitModel, data: TaskData, split: str) -> ExitRecords:
    """Run a split once through all layers and keep what every exit says.

    Args:
        model ([`EarlyExitModel`]): in evaluation mode.
        data ([`TaskData`]): the splits.
        split (`str`): its name.

    Raises:
        InputError: for a split that there is not.
    """
    policies = [*SCORES, "patience", *(["learned"] if model.config.learn_to_exit else [])]
    certainty: dict[str, list[np.ndarray]] = {policy: [] for policy in policies}
    predictions, labels = [], []
    with leaving(model, NEVER, 1.0), torch.inference_mode():
        for batch in tqdm(exit_batches(model, data, split), desc=f"Exits on {split}", leave=False, disable=None):
            labels.append(batch.pop("labels").cpu().numpy())
            output = model(**batch)
            mask = model.mask_of(output.logits, batch) if model.reads_positions else None
            for policy in policies:
                scores = exit_scores(policy, output.exit_logits, output.exit_errors, mask, model.reduction)
                certainty[policy].append(scores.cpu().numpy())
            classes = torch.stack([logits.argmax(dim=-1) for logits in output.exit_logits])
            if mask is not None:
                classes = classes.masked_fill(~mask.bool(), IGNORED)
            predictions.append(classes.cpu().numpy())
    return records_of(
        tuple(model.exit_layers),
        _joined(predictions, axis=1),
        _joined(labels, axis=0),
        {policy: np.concatenate(parts, axis=1) for policy, parts in certainty.items()},
        data,
    )


def records_of(
    layers: tuple[int, ...],
    predictions: np.ndarray,
    labels: np.ndarray,
    certainty: dict[str, np.ndarray],
    data: TaskData,
) -> ExitRecords:
    """The records of predictions (E, N) or (E, N, T), with how wrong each of them is."""
    last, kind = predictions[-1], RECORDINGS
    if not isinstance(data.processor, Wav2Vec2Processor):
        kind = CLASSES if labels.ndim == 1 else WORDS
        last = np.where(labels == IGNORED, IGNORED, last)  # of tokens, only those with a label are compared
    return ExitRecords(
        layers,
        predictions,
        labels,
        certainty,
        errors=np.stack([item_errors(EvalPrediction(said, labels), data.processor) for said in predictions]),
        disagreements=np.stack(
            [item_errors(EvalPrediction(said, last), data.processor, against_labels=False) for said in predictions]
        ),
        kind=kind,
    )


def _joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
    """Batches one after the other, along `axis`; those of sequences padded to the longest."""
    if parts[0].ndim == axis + 1:
        return np.concatenate(parts, axis=axis)
    length = max(part.shape[-1] for part in parts)
    pads = [[(0, 0)] * (axis + 1) + [(0, length - part.shape[-1])] for part in parts]
    padded = [np.pad(part, pad, constant_values=IGNORED) for part, pad in zip(parts, pads, strict=True)]
    return np.concatenate(padded, axis=axis)

"""How the predictions of a task are scored."""

from collections.abc import Callable, Sequence

import numpy as np
from transformers import EvalPrediction, Wav2Vec2PhonemeCTCTokenizer, Wav2Vec2Processor

from hf_ssl.evaluation.metrics import load_metric
from hf_ssl.evaluation.recognition.error_rates import count_errors
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.pretrained import Processor

Scorer = Callable[[EvalPrediction], dict[str, float]]


def make_scorer(names: Sequence[str], processor: Processor) -> Scorer:
    """The function that computes metrics from the predicted and true classes of a split.

    It takes an `EvalPrediction` of int arrays: predictions and labels, (N,) for classes, (N, T) for words, and for CTC
    (N, frames) and (N, units), where `IGNORED` is no class; and gives each of the metrics by its name.
    """
    metrics = [load_metric(name) for name in names]

    def score(prediction: EvalPrediction) -> dict[str, float]:
        pair = (
            _transcripts(prediction, processor) if isinstance(processor, Wav2Vec2Processor) else _classes(prediction)
        )
        scores: dict[str, float] = {}
        for metric in metrics:
            scores |= metric.compute(predictions=pair[0], references=pair[1])
        return scores

    return score


def item_errors(prediction: EvalPrediction, processor: Processor, against_labels: bool = True) -> np.ndarray:
    """How wrong the prediction of each single item is.

    Args:
        prediction (`EvalPrediction`): as [`make_scorer`]'s function takes it.
        processor ([`Processor`]): of the model.
        against_labels (`bool`): `False` if the `label_ids` are not true ones but other predictions.

    Returns:
        `ndarray` of shape `(N,)`, in [0, 1]: of an item with one class 0 (right) or 1 (wrong); of a text, the share of
            its words that are wrong (0 of one without words); of a recording, the character error rate (of phones,
            their error rate), 1 if it is more.
    """
    if isinstance(processor, Wav2Vec2Processor):
        heard, spoken = _transcripts(prediction, processor, against_labels)
        metric = "per" if isinstance(processor.tokenizer, Wav2Vec2PhonemeCTCTokenizer) else "cer"
        return np.array([_error_rate(*pair, metric) for pair in zip(spoken, heard, strict=True)])
    scored = prediction.label_ids != IGNORED
    wrong = scored & (prediction.predictions != prediction.label_ids)
    if wrong.ndim == 1:
        return wrong.astype(np.float64)
    return wrong.sum(axis=1) / np.maximum(scored.sum(axis=1), 1)


def _error_rate(spoken: str, heard: str, metric: str) -> float:
    if not spoken.strip():  # full depth may hear nothing
        return float(bool(heard.strip()))
    return min(1.0, count_errors([spoken], [heard], metric).value)


def _classes(prediction: EvalPrediction) -> tuple[list[int], list[int]]:
    scored = prediction.label_ids != IGNORED
    return prediction.predictions[scored].tolist(), prediction.label_ids[scored].tolist()


def _transcripts(
    prediction: EvalPrediction, processor: Wav2Vec2Processor, against_labels: bool = True
) -> tuple[list[str], list[str]]:
    tokenizer = processor.tokenizer
    frames = np.where(prediction.predictions == IGNORED, tokenizer.pad_token_id, prediction.predictions)
    units = np.where(prediction.label_ids == IGNORED, tokenizer.pad_token_id, prediction.label_ids)
    heard = tokenizer.batch_decode(frames)
    if not against_labels:
        return heard, tokenizer.batch_decode(units)
    # A character outside the vocabulary is one wrong character, not the five of its token's name.
    spoken = [
        text.replace(tokenizer.unk_token, "\N{REPLACEMENT CHARACTER}")
        for text in tokenizer.batch_decode(units, group_tokens=False)
    ]
    return heard, spoken

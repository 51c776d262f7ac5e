"""How the predictions of a task are scored."""

from collections.abc import Callable, Sequence

import numpy as np
from transformers import EvalPrediction, Wav2Vec2Processor

from hf_ssl.evaluation.metrics import load_metric
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


def _classes(prediction: EvalPrediction) -> tuple[list[int], list[int]]:
    scored = prediction.label_ids != IGNORED
    return prediction.predictions[scored].tolist(), prediction.label_ids[scored].tolist()


def _transcripts(prediction: EvalPrediction, processor: Wav2Vec2Processor) -> tuple[list[str], list[str]]:
    tokenizer = processor.tokenizer
    frames = np.where(prediction.predictions == IGNORED, tokenizer.pad_token_id, prediction.predictions)
    units = np.where(prediction.label_ids == IGNORED, tokenizer.pad_token_id, prediction.label_ids)
    # A character outside the vocabulary is one wrong character, not the five of its token's name.
    spoken = [
        text.replace(tokenizer.unk_token, "\N{REPLACEMENT CHARACTER}")
        for text in tokenizer.batch_decode(units, group_tokens=False)
    ]
    return tokenizer.batch_decode(frames), spoken

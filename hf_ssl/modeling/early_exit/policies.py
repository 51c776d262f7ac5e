"""How certain an exit is of its prediction: what decides whether a row leaves there.

One convention for all: a score in which *higher is more certain*, and a row leaves at the first exit whose score is
greater than the exit's threshold. The papers' own numbers follow from it:

* entropy: the score is 1 − H / ln C ∈ [0, 1]. FastBERT's uncertainty (Liu et al. 2020, arXiv:2004.02178, eq. 6) is
  H / ln C, so its Speed is 1 − threshold; DeeBERT's S (Xin et al. 2020, arXiv:2004.12993, section 3.2) is in nats,
  (1 − threshold) · ln C; HuBERT-EE (Yoon et al. 2022, arXiv:2204.06328) takes the mean over the frames.
* max_probability and margin: the largest probability, and how far the second is below it (CALM, Schuster et al. 2022,
  arXiv:2207.07061, section 3.3), both in [0, 1].
* learned: 1 − the wrongness that BERxiT's learning-to-exit module predicts (Xin et al. 2021, section 3.3), in [0, 1].
* patience: how often in a row the prediction has been that of the exit before, an integer (PABEE, Zhou et al. 2020,
  arXiv:2006.04152, section 3.2). A patience of p asks for p such repetitions: a score greater than p − 1.
"""

# E exits, B rows, T tokens or frames, C classes

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hf_ssl.errors import unknown_name

NEVER = "never"
SCORES = ("entropy", "max_probability", "margin")
"""Policies that read the logits of one exit alone."""
POLICIES = (NEVER, *SCORES, "patience", "learned")
REDUCTIONS = ("least", "mean")


def check_policy(policy: str) -> None:
    """Raise `InputError` unless `policy` is one of `POLICIES`."""
    if policy not in POLICIES:
        raise unknown_name("exit policy", policy, POLICIES)


def score(policy: str, logits: Tensor, mask: Tensor | None = None, reduction: str = "least") -> Tensor:
    """The certainty of one exit's logits.

    Args:
        policy (`str`): one of `SCORES`.
        logits (`Tensor` of shape `(B, C)` or `(B, T, C)`): C ≥ 2.
        mask (`Tensor` of shape `(B, T)`, *optional*): 1 = token or frame, 0 = padding; for `(B, T, C)` only.
        reduction (`str`): of `(B, T, C)`, see [`over_positions`].

    Returns:
        `Tensor` of shape `(B,)`, float32, in [0, 1]: 0 for even logits, 1 for all probability on one class.
    """
    probabilities = logits.float().softmax(dim=-1)
    if policy == "entropy":
        certainty = 1 - torch.special.entr(probabilities).sum(dim=-1) / math.log(logits.shape[-1])  # entr p = −p ln p
    elif policy == "max_probability":
        certainty = probabilities.amax(dim=-1)
    elif policy == "margin":
        first, second = probabilities.topk(2, dim=-1).values.unbind(dim=-1)
        certainty = first - second
    else:
        raise unknown_name("policy that reads one exit's logits", policy, SCORES)
    return certainty if logits.dim() == 2 else over_positions(certainty, mask, reduction)


def over_positions(values: Tensor, mask: Tensor | None = None, reduction: str = "least") -> Tensor:
    """One number a row from one a token or frame.

    Args:
        values (`Tensor` of shape `(B, T)`): certainties.
        mask (`Tensor` of shape `(B, T)`, *optional*): 1 = token or frame, 0 = padding, which counts nothing.
        reduction (`str`): `"least"`, the least certain position, since every tag of a sequence is to be right; or
            `"mean"`, as HuBERT-EE does of frames.

    Returns:
        `Tensor` of shape `(B,)`: 1 of a row without any position.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction over positions", reduction, REDUCTIONS)
    if mask is None:
        mask = torch.ones_like(values)
    mask = mask.bool()
    if reduction == "least":
        return values.masked_fill(~mask, 1.0).amin(dim=-1)
    lengths = mask.sum(dim=-1)
    mean = values.masked_fill(~mask, 0.0).sum(dim=-1) / lengths.clamp(min=1)
    return mean.masked_fill(lengths == 0, 1.0)


def agrees(predictions: Tensor, previous: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether an exit predicts what the exit before it does; a sequence, at all of its positions.

    Args:
        predictions (`Tensor` of shape `(B,)` or `(B, T)`): the classes of the exit.
        previous (`Tensor` of shape `(B,)` or `(B, T)`): those of the exit before.
        mask (`Tensor` of shape `(B, T)`, *optional*): 1 = token or frame, 0 = padding, where they may differ.

    Returns:
        boolean `Tensor` of shape `(B,)`.
    """
    same = predictions == previous
    if same.dim() == 1:
        return same
    return (same if mask is None else same | ~mask.bool()).all(dim=-1)


def exit_scores(
    policy: str,
    exit_logits: Sequence[Tensor],
    exit_errors: Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    reduction: str = "least",
) -> Tensor:
    """The scores of all exits of a full-depth pass, as inference that stops sees them one after the other.

    Args:
        policy (`str`): any but `"never"`.
        exit_logits (`Sequence[Tensor]`): E of shape `(B, C)` or `(B, T, C)`.
        exit_errors (`Sequence[Tensor]`, *optional*): E of shape `(B,)`, the predicted wrongness; for `"learned"`.
        mask (`Tensor` of shape `(B, T)`, *optional*): 1 = token or frame, 0 = padding.
        reduction (`str`): of `(B, T, C)`, see [`over_positions`].

    Returns:
        `Tensor` of shape `(E, B)`: the last exit's score is there too, although all that come to it leave.
    """
    if policy == "learned":
        assert exit_errors is not None
        return 1 - torch.stack(list(exit_errors)).float()
    if policy != "patience":
        return torch.stack([score(policy, logits, mask, reduction) for logits in exit_logits])
    predictions = [logits.argmax(dim=-1) for logits in exit_logits]
    counts = [torch.zeros(len(predictions[0]), device=predictions[0].device)]
    for previous, current in pairwise(predictions):
        counts.append((counts[-1] + 1) * agrees(current, previous, mask))
    return torch.stack(counts)


def exits_taken(scores: Tensor, thresholds: Tensor | Sequence[float]) -> Tensor:
    """The exit at which each row leaves: the first whose score is greater than its threshold, else the last.

    Args:
        scores (`Tensor` of shape `(E, B)`): of [`exit_scores`].
        thresholds (`Tensor` or `Sequence[float]`, E − 1 of them): of the exits before the last.

    Returns:
        `Tensor` of shape `(B,)`: exits, counted from 0.
    """
    limits = torch.as_tensor(thresholds, dtype=scores.dtype, device=scores.device)
    leaves = torch.ones_like(scores, dtype=torch.bool)  # at the last exit, all do
    leaves[:-1] = scores[:-1] > limits[:, None]
    return leaves.int().argmax(dim=0)


def highest_score(policy: str, exit_index: int) -> float:
    """What no score at an exit (counted from 0) is above: with a threshold that is not below it, the exit is idle."""
    return float(exit_index) if policy == "patience" else 1.0

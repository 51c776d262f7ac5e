"""How long inference that stops takes, measured beside full depth."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.policies import NEVER

Inputs = dict[str, Tensor]


@contextmanager
def leaving(model: PreTrainedModel, policy: str, threshold: float) -> Iterator[None]:
    """The model with this policy at this threshold, as candidates name them; afterwards as it was."""
    config = model.config
    before = config.exit_policy, config.exit_threshold, config.exit_patience
    set_policy(config, policy, threshold)
    try:
        yield
    finally:
        config.exit_policy, config.exit_threshold, config.exit_patience = before


def set_policy(config: EarlyExitConfig, policy: str, threshold: float) -> None:
    """Write a policy and what a row's certainty has to be above into the config of a model with exits."""
    config.exit_policy = policy
    if policy == "patience":
        config.exit_patience = int(threshold) + 1  # certainties are counts: above p − 1 is at least p
    elif policy != NEVER:
        config.exit_threshold = threshold


def relative_times(
    model: PreTrainedModel, batches: Sequence[Inputs], policy: str, thresholds: Sequence[float], rounds: int = 5
) -> np.ndarray:
    """The time that inference takes at each threshold over that of full depth.

    Every batch is run through at full depth and at each threshold, one right after the other, so that whatever else
    the machine does strikes all alike. A ratio is of one round over all batches, and the median of the rounds counts;
    a round before them, in which memory is fetched and kernels are chosen, does not.

    Args:
        model (`PreTrainedModel`): with exits, in evaluation mode.
        batches (`Sequence[Inputs]`): on the model's device, without labels.
        policy (`str`): which.
        thresholds (`Sequence[float]`): S of them.
        rounds (`int`): at least 1.

    Returns:
        `ndarray` of shape `(S,)`: below 1 where it is faster.
    """
    settings = [(NEVER, 1.0), *((policy, float(threshold)) for threshold in thresholds)]
    ratios = []
    for _ in range(rounds + 1):
        seconds = np.zeros(len(settings))
        for batch in batches:
            for place, setting in enumerate(settings):
                with leaving(model, *setting):
                    seconds[place] += _seconds(model, batch)
        ratios.append(seconds[1:] / seconds[0])
    return np.array([median(column) for column in zip(*ratios[1:], strict=True)])


@torch.inference_mode()
def _seconds(model: PreTrainedModel, batch: Inputs) -> float:
    _synchronise(model)
    start = time.perf_counter()
    model(**batch)
    _synchronise(model)
    return time.perf_counter() - start


def _synchronise(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)

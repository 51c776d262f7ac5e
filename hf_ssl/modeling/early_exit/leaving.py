"""Who leaves at which exit, and what the exits said of them."""

# B rows of the batch, n of them still here, T tokens or frames, C classes

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_ssl.modeling.early_exit.heads import LearningToExit
from hf_ssl.modeling.early_exit.policies import agrees, highest_score, over_positions, score

MaskOf = Callable[[Tensor], Tensor | None]
"""Of an exit's hidden states, the real positions (B, T) of the whole batch in them; `None` without padding."""


class Leaving:
    """The decisions of one pass, exit by exit.

    Each exit that is not idle writes its logits of all rows that come to it over those of the exits before; so a row's
    are in the end those of the exit that it has left at.

    Args:
        exits (`nn.ModuleList`): the heads, the last layer's too.
        exit_layers (`list[int]`): the layers after which they stand.
        policy (`str`): any but `"never"`.
        thresholds (`list[float]`): of the exits before the last.
        wrongness (`LearningToExit`, *optional*): what the policy `"learned"` asks.
        reduction (`str`): of the scores of tokens and frames, see [`over_positions`].
        mask_of (`MaskOf`): the real tokens or frames.
    """

    logits: Tensor
    exit_layer: Tensor
    predictions: Tensor
    repetitions: Tensor

    def __init__(
        self,
        exits: nn.ModuleList,
        exit_layers: list[int],
        *,
        policy: str,
        thresholds: list[float],
        wrongness: LearningToExit | None,
        reduction: str,
        mask_of: MaskOf,
    ) -> None:
        self.exits, self.exit_layers, self.policy, self.thresholds = exits, exit_layers, policy, thresholds
        self.wrongness, self.reduction, self.mask_of = wrongness, reduction, mask_of
        self.is_idle = [limit >= highest_score(policy, index) for index, limit in enumerate(thresholds)]

    def at_exit(self, index: int, hidden: Tensor, alive: Tensor | None) -> Tensor | None:
        """Who of the rows `alive` (n,) leaves at an exit before the last: a boolean (n,); `None` of an idle exit."""
        # Before an exit that counts repetitions can let anybody leave, others must have predicted.
        if self.is_idle[index] and (self.policy != "patience" or all(self.is_idle)):
            return None
        mask = self._mask(hidden, alive)
        features, logits = self.exits[index](hidden, mask)
        scores = self._scores(index, features, logits, mask, alive)
        if self.is_idle[index]:
            return None
        self._write(index, logits, alive)
        return scores > self.thresholds[index]

    def at_the_end(self, hidden: Tensor, alive: Tensor | None) -> None:
        """The last exit speaks of the rows that have come to it."""
        _, logits = self.exits[-1](hidden, self._mask(hidden, alive))
        self._write(len(self.exits) - 1, logits, alive)

    def _mask(self, hidden: Tensor, alive: Tensor | None) -> Tensor | None:
        mask = self.mask_of(hidden)
        return None if mask is None else _at(mask, alive)

    def _write(self, index: int, logits: Tensor, alive: Tensor | None) -> None:
        layer = torch.full((len(logits),), self.exit_layers[index], device=logits.device)
        # Rows can only have left at an exit that has written.
        self.logits = logits if alive is None else self.logits.index_copy(0, alive, logits)
        self.exit_layer = layer if alive is None else self.exit_layer.index_copy(0, alive, layer)

    def _scores(
        self, index: int, features: Tensor, logits: Tensor, mask: Tensor | None, alive: Tensor | None
    ) -> Tensor:
        if self.policy == "patience":
            return self._repetitions(index, logits.argmax(dim=-1), mask, alive)
        if self.policy == "learned":
            assert self.wrongness is not None
            certainty = 1 - self.wrongness(features)
            return certainty if certainty.dim() == 1 else over_positions(certainty, mask, self.reduction)
        return score(self.policy, logits, mask, self.reduction)

    def _repetitions(self, index: int, predictions: Tensor, mask: Tensor | None, alive: Tensor | None) -> Tensor:
        if index == 0:
            repetitions = torch.zeros(len(predictions), device=predictions.device)
        else:
            same = agrees(predictions, _at(self.predictions, alive), mask)
            repetitions = (_at(self.repetitions, alive) + 1) * same
        self.predictions = predictions if alive is None else self.predictions.index_copy(0, alive, predictions)
        self.repetitions = repetitions if alive is None else self.repetitions.index_copy(0, alive, repetitions)
        return repetitions


def _at(values: Tensor, alive: Tensor | None) -> Tensor:
    return values if alive is None else values[alive]

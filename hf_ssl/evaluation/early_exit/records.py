"""What every exit says of stored items, to which any policy at any threshold can be applied without the model."""

# E exits, N items, T positions of an item (words, frames), S thresholds

from dataclasses import dataclass

import numpy as np

CLASSES, WORDS, RECORDINGS = "classes", "words", "recordings"
"""What an item is: of one class, a text of words with a class each, or a recording with a transcript."""

RISKS: dict[str, dict[str, str]] = {
    "loss": {
        CLASSES: "share of items that full depth gets right and the exit taken gets wrong",
        WORDS: "share of a text's words by which the exit taken is wrong more often than full depth, a mean over "
        "texts",
        RECORDINGS: "character (or phone) error rate, 1 at most, by which the exit taken is above full depth, a mean "
        "over recordings",
    },
    "disagreement": {
        CLASSES: "share of items of which the exit taken says otherwise than full depth",
        WORDS: "share of a text's words of which the exit taken says otherwise than full depth, a mean over texts",
        RECORDINGS: "character (or phone) error rate, 1 at most, of the exit taken with full depth's transcript as "
        "the reference, a mean over recordings",
    },
}
"""What can be bounded, by what the items are. Of the first, an item that is better early does not make up for one that
is worse, so that it is at least the mean error added.
"""


@dataclass(frozen=True)
class ExitRecords:
    """The exits on one split.

    Args:
        layers (`tuple[int, ...]`): the exits' layers, the last layer last.
        predictions (`ndarray` of shape `(E, N)` or `(E, N, T)`): the most probable class of each item, word or frame.
        labels (`ndarray` of shape `(N,)` or `(N, T)`): the true ones.
        certainty (`dict[str, ndarray]`): by policy (E, N), float32: what its threshold is compared with; see
            [`hf_ssl.modeling.early_exit.policies.exit_scores`].
        errors (`ndarray` of shape `(E, N)`): how wrong each exit is of each item, in [0, 1]: see
            [`hf_ssl.trainers.scoring.item_errors`].
        disagreements (`ndarray` of shape `(E, N)`): likewise with what the last exit says in place of the truth.
        kind (`str`): what an item is: `"classes"`, `"words"` or `"recordings"`.
    """

    layers: tuple[int, ...]
    predictions: np.ndarray
    labels: np.ndarray
    certainty: dict[str, np.ndarray]
    errors: np.ndarray
    disagreements: np.ndarray
    kind: str = CLASSES

    @property
    def num_items(self) -> int:
        """N."""
        return self.errors.shape[1]

    def exits_taken(self, policy: str, thresholds: np.ndarray) -> np.ndarray:
        """The exit that each item leaves at: the first whose certainty is above the threshold, else the last.

        Args:
            policy (`str`): a key of `certainty`.
            thresholds (`ndarray` of shape `(S,)`): each applied at every exit.

        Returns:
            `ndarray` of shape `(S, N)`: exits from 0.
        """
        certainty = self.certainty[policy].copy()  # (E, N)
        certainty[-1] = np.inf
        # In float32, as the model compares them
        return np.stack([(certainty > np.float32(threshold)).argmax(axis=0) for threshold in thresholds])

    def mean_layers(self, taken: np.ndarray) -> np.ndarray:
        """Layers that an item runs through on average: (S, N) exits to (S,)."""
        return np.asarray(self.layers)[taken].mean(axis=-1)

    def chosen(self, taken: np.ndarray) -> np.ndarray:
        """The predictions of the exit that each item (N,) leaves at, (N,) or (N, T)."""
        return self.predictions[taken, np.arange(self.num_items)]

    def losses(self, taken: np.ndarray, risk: str) -> np.ndarray:
        """What leaving early costs each item; see [`RISKS`].

        Args:
            taken (`ndarray` of shape `(S, N)`): exits from 0.
            risk (`str`): a key of [`RISKS`].

        Returns:
            `ndarray` of shape `(S, N)`: in [0, 1], 0 of an item that runs through all layers.
        """
        items = np.arange(self.num_items)
        if risk == "disagreement":
            return self.disagreements[taken, items]
        return np.maximum(self.errors[taken, items] - self.errors[-1], 0.0)

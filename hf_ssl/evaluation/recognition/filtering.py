"""Which of its own transcripts a recogniser may be trusted with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_ssl.errors import InputError


@dataclass(frozen=True)
class FilteringScore:
    """The score of a transcript, freed of its length.

    Improved Noisy Student Training (Park et al. 2020, arXiv:2005.09629): a decoder's score S falls with the number of
    tokens ℓ, and spreads with its root. `s(S, ℓ) = (S − μ ℓ − β) / (σ √ℓ)`, where μ and β are a least-squares line
    through the scores of recordings beside the training ones, and σ is the standard deviation of
    `(S − μ ℓ − β) / √ℓ` there: about 0 for a usual transcript of its length, negative for a doubtful one.

    Args:
        slope (`float`): μ, of S per token.
        intercept (`float`): β.
        spread (`float`): σ > 0.
    """

    slope: float
    intercept: float
    spread: float

    @classmethod
    def fit(cls, scores: Sequence[float], lengths: Sequence[int]) -> "FilteringScore":
        """Fit μ, β and σ.

        Args:
            scores (`Sequence[float]`): S of each transcript, in nats.
            lengths (`Sequence[int]`): ℓ of each; those of 0 are left out.

        Raises:
            InputError: with fewer than three transcripts, or all of one length or on one line.
        """
        length, score = np.asarray(lengths, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        length, score = length[length > 0], score[length > 0]
        if len(np.unique(length)) < 2 or len(length) < 3:
            raise InputError(
                f"The filter of pseudo-labels is fitted on validation transcripts of several lengths, and there are "
                f"{len(length)} of {len(np.unique(length))} lengths; give more validation recordings."
            )
        slope, intercept = np.polyfit(length, score, deg=1)
        spread = float(np.std((score - slope * length - intercept) / np.sqrt(length)))
        if spread == 0:
            raise InputError("The scores of the validation transcripts lie on one line; give more recordings.")
        return cls(float(slope), float(intercept), spread)

    def __call__(self, score: float, length: int) -> float:
        """s(S, ℓ); −∞ for an empty transcript, which is never trusted."""
        if length == 0:
            return -np.inf
        return (score - self.slope * length - self.intercept) / (self.spread * length**0.5)

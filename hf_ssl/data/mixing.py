"""WavLM's denoising: now and then somebody else speaks in a recording, whose own units are still to be predicted."""

# S samples of the recording, R of the other one

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ssl.data.keyed import MapStyleDataset
from hf_ssl.errors import InputError

ENERGY_RATIOS = (-5.0, 5.0)
"""dB, of the recording over the other one."""


@dataclass(frozen=True)
class UtteranceMixing:
    """Chooses what is mixed into a recording (Chen et al. 2021, arXiv:2110.13900; [`overlap`] mixes it in).

    Reference: microsoft/UniSpeech, `src/fairseq/data/audio/utterance_mixing_dataset.py`. Deviations: the other
    recording is any of the data set but the same one, where theirs is any of the batch, the same and mixed ones
    included: here an item does not depend on its batch. Noises (DNS), which take the place of some of the recordings
    there, are not here.

    Args:
        rows ([`MapStyleDataset`]): the recordings, items with `audio`; at least 2.
        probability (`float`): in [0, 1].

    Raises:
        InputError: for a single recording.
    """

    rows: MapStyleDataset
    probability: float

    def __post_init__(self) -> None:
        if len(self.rows) < 2:
            raise InputError(
                "There is no other recording to mix in; set data.mixing_probability=0 or give more recordings."
            )

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any] | None:
        """The item that is mixed into the recording with that number, or none."""
        if torch.rand((), generator=generator) >= self.probability:
            return None
        other = int(torch.randint(len(self.rows) - 1, (), generator=generator))
        return self.rows[other + (other >= index)]


def overlap(waveform: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Adds a stretch of another recording at a random place, over at most half of this one, whose speaker prevails.

    `x[s : s + l] += √(E_x / (10^(r/10) E_y)) · y[c : c + l]`, with E the mean squares of all of x and y, r uniform in
    ±5 dB, l in 0 … ⌊S/2⌋ (and R), and s and c wherever l samples fit. Silence adds nothing.

    Args:
        waveform (`Tensor` of shape `(S,)`): x.
        other (`Tensor` of shape `(R,)`): y.
        generator (`torch.Generator`): of the item.

    Returns:
        `Tensor` of shape `(S,)`.
    """

    def uniform(most: int) -> int:
        return int(torch.randint(most + 1, (), generator=generator))

    length = min(uniform(len(waveform) // 2), len(other))
    start, start_of_other = uniform(len(waveform) - length), uniform(len(other) - length)
    least, most = ENERGY_RATIOS
    ratio = least + (most - least) * torch.rand((), generator=generator)
    energy, energy_of_other = waveform.square().mean(), other.square().mean()
    if energy_of_other == 0:
        return waveform
    gain = (energy / (10 ** (ratio / 10) * energy_of_other)).sqrt()
    mixed = waveform.clone()
    mixed[start : start + length] += gain * other[start_of_other : start_of_other + length]
    return mixed

"""Which positions of a batch are real, and over how many of them a loss is a mean."""

# B rows, T positions

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hf_ssl.modeling.blocks.front_end import frames_of_inputs

Batch = dict[str, Tensor]


class Positions:
    """The positions of a batch: tokens or frames, of which padding does not count; patches, of which an image has T.

    A loss over positions is `Σ_b Σ_i w_bi ℓ_bi / Σ_b Σ_i w_bi`, with w = 1 at a real token or frame and 0 at padding.
    Of images w = 1/T, which is the same mean, since all have T positions: so the divisor, the number of images, is
    known before the encoder has run.

    Args:
        batch (`dict[str, Tensor]`): what the encoder reads: `input_ids`, `input_values`, `input_features` or
            `pixel_values`, and `attention_mask` where rows are padded.
        config (`PreTrainedConfig`): of the encoder.
    """

    def __init__(self, batch: Batch, config: PreTrainedConfig) -> None:
        self._keep: Tensor | None = None
        if "pixel_values" in batch:
            self.num_rows = len(batch["pixel_values"])
        elif "input_ids" in batch:
            self._keep = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        else:
            inputs = batch["input_values"] if "input_values" in batch else batch["input_features"]
            lengths = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
            if "attention_mask" in batch:
                lengths = batch["attention_mask"].sum(dim=1)
            longest = frames_of_inputs(config, inputs.shape[1])
            frames = torch.arange(longest, device=inputs.device)
            self._keep = frames < frames_of_inputs(config, lengths)[:, None]

    def weights(self, num_positions: int) -> Tensor:
        """The weights w.

        Args:
            num_positions (`int`): T, of the states that are compared.

        Returns:
            `Tensor` of shape `(B, T)`: 1 and 0; of images all 1/T.
        """
        if self._keep is None:
            return torch.full((self.num_rows, num_positions), 1 / num_positions)
        return self._keep.float()

    def count(self) -> Tensor:
        """Σ w, a scalar."""
        return torch.tensor(float(self.num_rows)) if self._keep is None else self._keep.sum().float()

    def count_pairs(self) -> Tensor:
        """Σ_b Σ_i Σ_j w_bi w_bj, a scalar: the pairs of positions of a row that attention is computed of."""
        if self._keep is None:
            return torch.tensor(float(self.num_rows))
        return self._keep.sum(dim=1).float().square().sum()

    def mean(self, states: Tensor) -> Tensor:
        """States (B, T, D) averaged over the real positions of each row: (B, D)."""
        weights = self.weights(states.shape[1]).to(states)[..., None]
        return (weights * states).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

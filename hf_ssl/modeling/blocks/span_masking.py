"""Masks made of spans that may overlap (wav2vec 2.0, section 3.1; Baevski et al. 2020, arXiv 2006.11477)."""

import torch
from torch import Tensor

# T frames of the sequence, n spans, L frames a span


def span_mask(num_frames: int, probability: float, length: int, min_masks: int, generator: torch.Generator) -> Tensor:
    """Masks one sequence with spans of `length` frames.

    The number of spans is n = ⌊p·T/L + U(0, 1)⌋ and at least `min_masks`; their starts are drawn without replacement
    from the first T − L frames, and the mask is the union of the spans. `probability` is thus the masked share
    *before* overlap: p = .65 with L = 10 masks about 49 % of a long sequence, p = .80 about 55 %. In a sequence hardly
    longer than a span the starts come from its first n + 1 frames, and what runs over its end is cut.

    Reference: `compute_mask_indices` (static lengths) in fairseq/data/data_utils.py. That one also thins all rows of a
    batch to the smallest masked count, so that they stack to a rectangle. Here a row never depends on the others of
    its batch: its mask would change with the batch size, and the gradient of a step with the way it is cut into
    micro-batches.

    Args:
        num_frames (`int`): T, ≥ 1.
        probability (`float`): p in [0, 1].
        length (`int`): L, frames a span, ≥ 1.
        min_masks (`int`): the least number of spans, ≥ 0.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.

    Returns:
        `Tensor`: boolean, shape `(num_frames,)`, `True` = masked.
    """
    num_spans = int(probability * num_frames / length + torch.rand((), generator=generator).item())
    num_spans = max(num_spans, min_masks)
    num_starts = max(num_frames - length, min(num_spans + 1, num_frames))
    starts = torch.randperm(num_starts, generator=generator)[:num_spans]
    positions = (starts[:, None] + torch.arange(length)).flatten()  # (n·L,)
    mask = torch.zeros(num_frames, dtype=torch.bool)
    mask[positions[positions < num_frames]] = True
    return mask

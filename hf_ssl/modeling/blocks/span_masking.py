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


def independent_span_mask(
    num_frames: int, start_probability: float, length: int, generator: torch.Generator
) -> Tensor:
    """Masks one sequence with spans that start at each frame with the same probability, whatever the others do.

    BEST-RQ (Chiu et al. 2022, arXiv:2202.01855, section 3). Spans may overlap, and the last ones are cut at the end
    of the sequence: 1 − (1 − p)^L of the frames are masked in all, fewer among the first L.

    Args:
        num_frames (`int`): T.
        start_probability (`float`): p in [0, 1].
        length (`int`): L, frames a span, ≥ 1.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.

    Returns:
        `Tensor`: boolean, shape `(num_frames,)`, `True` = masked.
    """
    started = (torch.rand(num_frames, generator=generator) < start_probability).cumsum(dim=0)
    ended = torch.cat([torch.zeros(length, dtype=started.dtype), started])[:num_frames]  # as of L frames ago
    return started > ended


def equal_span_masks(
    num_masks: int, num_frames: int, probability: float, length: int, adjust: float, generator: torch.Generator
) -> Tensor:
    """Several masks of one sequence, each of ⌊p·T⌋ frames.

    data2vec 2.0 (Baevski et al. 2022, arXiv:2212.07525). In each mask, spans are centred on ⌊T·(p + adjust)/L⌋ frames,
    drawn with replacement; they may overlap and are cut at the ends of the sequence. Frames are then taken out of
    them, or added anywhere else, at random, until the count is reached: the masks of a sequence make a rectangle.

    Reference: `compute_block_mask_1d` in fairseq/data/data_utils.py.

    Args:
        num_masks (`int`): M.
        num_frames (`int`): T.
        probability (`float`): p in [0, 1].
        length (`int`): L, frames a span, ≥ 1.
        adjust (`float`): makes up for the overlap of the spans: those of p = .5 cover 39 %, with adjust = .05 42 %.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.

    Returns:
        `Tensor`: boolean, shape `(M, T)`, `True` = masked.
    """
    num_spans = int(num_frames * ((probability + adjust) / length))
    centres = torch.randint(num_frames, (num_masks, num_spans), generator=generator)
    spans = centres[..., None] + torch.arange(length) - length // 2  # (M, spans, L)
    in_span = torch.zeros(num_masks, num_frames).scatter(1, spans.clamp(0, num_frames - 1).flatten(1), 1.0)
    ranks = torch.rand(num_masks, num_frames, generator=generator) + in_span  # those in spans before the others
    chosen = ranks.topk(int(num_frames * probability), dim=1).indices
    return torch.zeros(num_masks, num_frames, dtype=torch.bool).scatter(1, chosen, True)

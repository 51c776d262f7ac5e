import pytest
import torch

from hf_ssl.modeling.blocks.span_masking import span_mask


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("probability", "expected"), [(0.65, 0.49), (0.80, 0.56)])
def test_masked_share_is_the_published_one(probability, expected):
    masks = torch.stack([span_mask(780, probability, 10, 2, generator(seed)) for seed in range(200)])
    assert masks.float().mean() == pytest.approx(expected, abs=0.015)


def test_number_of_spans_is_rounded_at_random():
    # p·T/L = 2.5 spans that cannot overlap much: 2 or 3 of them, equally often.
    starts = [span_mask(1000, 0.0025, 1, 0, generator(seed)).sum().item() for seed in range(400)]
    assert set(starts) == {2, 3}
    assert sum(starts) / len(starts) == pytest.approx(2.5, abs=0.1)


def test_masks_are_unions_of_whole_spans():
    for seed in range(50):
        mask = span_mask(100, 0.5, 7, 2, generator(seed))
        runs = "".join("x" if masked else " " for masked in mask.tolist()).split()
        assert runs
        assert min(len(run) for run in runs) >= 7


def test_least_number_of_spans():
    # Two spans of 5 with different starts mask at least 6 frames, even at probability 0.
    assert all(span_mask(50, 0.0, 5, 2, generator(seed)).sum() >= 6 for seed in range(50))


@pytest.mark.parametrize("num_frames", [1, 2, 5, 10, 11, 12])
def test_sequences_about_as_short_as_a_span(num_frames):
    masks = [span_mask(num_frames, 0.8, 10, 2, generator(seed)) for seed in range(20)]
    assert all(mask.shape == (num_frames,) and mask.any() for mask in masks)


def test_only_the_generator_decides():
    torch.manual_seed(0)
    first = span_mask(200, 0.65, 10, 2, generator(3))
    torch.manual_seed(1)
    assert torch.equal(first, span_mask(200, 0.65, 10, 2, generator(3)))
    assert not torch.equal(first, span_mask(200, 0.65, 10, 2, generator(4)))

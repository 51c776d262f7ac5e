import pytest
import torch

from hf_ssl.modeling.blocks.span_masking import equal_span_masks, independent_span_mask, span_mask


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


def test_share_of_independent_spans():
    masks = torch.stack([independent_span_mask(1000, 0.01, 40, generator(seed)) for seed in range(400)])
    # BEST-RQ's masks: after the first 40 frames, each is masked unless none of 40 frames has started a span.
    assert masks[:, 40:].float().mean() == pytest.approx(1 - 0.99**40, abs=0.01)  # .33
    assert masks[:, 0].float().mean() == pytest.approx(0.01, abs=0.015)


def test_independent_spans_are_the_union_of_what_starts_at_each_frame():
    for seed in range(20):
        starts = (torch.rand(60, generator=generator(seed)) < 0.1).tolist()
        expected = [any(starts[max(0, t - 6) : t + 1]) for t in range(60)]
        assert independent_span_mask(60, 0.1, 7, generator(seed)).tolist() == expected


@pytest.mark.parametrize("num_frames", [0, 1, 3, 7])
def test_independent_spans_longer_than_the_sequence(num_frames):
    assert independent_span_mask(num_frames, 1.0, 7, generator(0)).tolist() == [True] * num_frames
    assert not independent_span_mask(num_frames, 0.0, 7, generator(0)).any()


@pytest.mark.parametrize("num_frames", [1, 2, 7, 50, 781])
@pytest.mark.parametrize("probability", [0.3, 0.5, 0.8])
def test_equal_masks_have_the_same_count(num_frames, probability):
    masks = equal_span_masks(8, num_frames, probability, 5, 0.05, generator(0))
    assert masks.shape == (8, num_frames)
    assert masks.sum(dim=1).tolist() == [int(probability * num_frames)] * 8


@pytest.mark.parametrize(("num_frames", "probability", "adjust"), [(60, 0.5, 0.05), (60, 0.5, 0.5), (9, 0.8, 0.1)])
def test_equal_masks_are_spans_that_are_thinned_or_filled_up(num_frames, probability, adjust):
    # Both ways to the count occur: with adjust = .5 more frames lie in spans than are masked.
    for seed in range(20):
        masks = equal_span_masks(3, num_frames, probability, 5, adjust, generator(seed))
        random = generator(seed)
        centres = torch.randint(num_frames, (3, int(num_frames * ((probability + adjust) / 5))), generator=random)
        order = torch.rand(3, num_frames, generator=random)
        for mask, row, ranks in zip(masks, centres.tolist(), order.tolist(), strict=True):
            in_span = {min(max(c + k, 0), num_frames - 1) for c in row for k in (-2, -1, 0, 1, 2)}
            ranked = sorted(range(num_frames), key=lambda t: (t in in_span, ranks[t]), reverse=True)
            assert set(mask.nonzero()[:, 0].tolist()) == set(ranked[: int(num_frames * probability)])


def test_equal_masks_are_mostly_spans():
    masks = equal_span_masks(200, 780, 0.5, 5, 0.05, generator(0))
    lone = masks[:, 1:-1] & ~masks[:, :-2] & ~masks[:, 2:]  # as single frames at p = .5 a quarter of them would be
    assert lone.float().mean() / masks.float().mean() < 0.12
    assert masks.float().mean(dim=0).std() < 0.05  # no place of the sequence is masked more often than others
    assert not torch.equal(masks[0], masks[1])

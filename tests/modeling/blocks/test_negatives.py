import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices

from hf_ssl.modeling.blocks.negatives import contrastive_logits, draw_negatives, fingerprint


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_negatives_are_the_other_positions():
    negatives = draw_negatives(7, 500, generator())
    assert negatives.shape == (7, 500)
    for position, row in enumerate(negatives):
        assert set(row.tolist()) == set(range(7)) - {position}


def test_negatives_are_drawn_with_replacement_even_where_there_are_few():
    assert draw_negatives(2, 4, generator()).tolist() == [[1] * 4, [0] * 4]
    assert draw_negatives(1, 4, generator()).tolist() == [[0] * 4]  # nothing else is there


def test_negatives_have_the_distribution_of_transformers():
    """Shares of each position as a negative of each other one: uniform in both, within the noise of 4000 draws."""
    num_positions, num_negatives = 9, 4000
    np.random.seed(0)  # noqa: NPY002 - where transformers draws from
    theirs = _sample_negative_indices((1, num_positions), num_negatives, np.ones((1, num_positions), dtype=bool))[0]
    ours = draw_negatives(num_positions, num_negatives, generator()).numpy()
    for drawn in (ours, theirs):
        shares = np.stack([np.bincount(row, minlength=num_positions) for row in drawn]) / num_negatives
        expected = (1 - np.eye(num_positions)) / (num_positions - 1)
        assert np.abs(shares - expected).max() < 5 * np.sqrt(0.125 * 0.875 / num_negatives)


def test_logits_are_the_cosines_one_by_one():
    predictions, targets = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    negatives = torch.stack([draw_negatives(6, 4, generator(seed)) for seed in (1, 2)])
    logits = contrastive_logits(predictions, targets, fingerprint(targets), negatives, 0.1)
    for b in range(2):
        for t in range(6):
            for column, index in enumerate([t, *negatives[b, t].tolist()]):
                cosine = F.cosine_similarity(predictions[b, t], targets[b, index], dim=0)
                assert logits[b, t, column].item() == pytest.approx(cosine.item() / 0.1, abs=1e-5)


def test_a_negative_like_the_target_has_no_part():
    predictions, targets = torch.randn(1, 4, 5, requires_grad=True), torch.randn(1, 4, 5)
    targets[0, 2] = targets[0, 0]
    negatives = torch.tensor([[[2, 1, 3], [0, 2, 3], [0, 0, 0], [0, 1, 2]]])
    logits = contrastive_logits(predictions, targets, fingerprint(targets), negatives, 0.1)
    losses = F.cross_entropy(logits[0], torch.zeros(4, dtype=torch.long), reduction="none")
    cosines = F.cosine_similarity(predictions[0][:, None], targets, dim=-1) / 0.1  # (4, 4)
    expected = [
        torch.logsumexp(cosines[0, [0, 1, 3]], 0) - cosines[0, 0],
        torch.logsumexp(cosines[1, [1, 0, 2, 3]], 0) - cosines[1, 1],
        torch.zeros(()),  # all its negatives are the target itself
        torch.logsumexp(cosines[3, [3, 0, 1, 2]], 0) - cosines[3, 3],
    ]
    torch.testing.assert_close(losses, torch.stack(expected))
    losses.sum().backward()
    assert predictions.grad.isfinite().all()
    assert (predictions.grad[0, 2] == 0).all()


def test_fingerprints_tell_vectors_apart():
    vectors = torch.randn(20_000, 16)
    vectors[7] = vectors[11]
    vectors[8] = vectors[9].flip(0)
    vectors[13, 0] = torch.nextafter(vectors[12, 0], torch.tensor(9.0))
    vectors[13, 1:] = vectors[12, 1:]
    numbers = fingerprint(vectors)
    assert numbers.dtype == torch.int64
    assert numbers.unique().numel() == 19_999
    assert numbers[7] == numbers[11]


def test_bf16_is_compared_in_fp32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        targets = torch.randn(1, 6, 5).bfloat16()
        negatives = draw_negatives(6, 4, generator())[None]
        logits = contrastive_logits(torch.randn(1, 6, 5), targets, fingerprint(targets), negatives, 0.1)
    assert logits.dtype == torch.float32


def test_compiles_without_a_break():
    negatives = draw_negatives(6, 4, generator())[None]

    def loss(predictions, targets):
        logits = contrastive_logits(predictions, targets, fingerprint(targets), negatives, 0.1)
        return F.cross_entropy(logits.flatten(0, 1), torch.zeros(6, dtype=torch.long))

    inputs = torch.randn(1, 6, 5), torch.randn(1, 6, 5)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs), loss(*inputs))

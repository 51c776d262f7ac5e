import torch

from hf_ssl.modeling.blocks import whitening as module
from hf_ssl.modeling.blocks.whitening import whitening


def correlated(num_vectors=500, size=6):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(size, size, generator=generator)
    return torch.randn(num_vectors, size, generator=generator) @ mixing + 5


def test_the_covariance_becomes_the_identity():
    vectors = correlated()
    mean, projection = whitening(vectors, 6)
    white = (vectors - mean) @ projection
    torch.testing.assert_close(white.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6), atol=1e-4, rtol=0)


def test_the_components_are_those_of_largest_variance():
    vectors = correlated()
    projection = whitening(vectors, 2)[1]
    assert projection.shape == (6, 2)
    _, singular_values, directions = torch.linalg.svd((vectors - vectors.mean(0)).double(), full_matrices=False)
    expected = directions[:2].T / singular_values[:2] * len(vectors) ** 0.5
    torch.testing.assert_close(projection.abs(), expected.abs().float(), rtol=1e-4, atol=1e-6)


def test_in_parts(monkeypatch):
    vectors = correlated()
    whole = whitening(vectors, 4)[1]
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    torch.testing.assert_close(whitening(vectors, 4)[1].abs(), whole.abs(), rtol=1e-4, atol=1e-6)


def test_what_does_not_vary_is_left_out():
    vectors = correlated()
    vectors[:, 3] = vectors[:, 2]
    projection = whitening(vectors, 10)[1]
    assert projection.shape == (6, 6)
    assert projection.isfinite().all()
    assert not projection[:, 5].any()

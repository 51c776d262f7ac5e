import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.codebook import code_perplexity, cosine_logits, drop_special_labels, nearest_codewords


def test_logits_are_cosines_over_temperature():
    vectors, codebook = torch.randn(5, 8), torch.rand(3, 8)
    logits = cosine_logits(vectors, codebook, 0.1)
    for n in range(5):
        for v in range(3):
            cosine = torch.dot(vectors[n], codebook[v]) / (vectors[n].norm() * codebook[v].norm())
            torch.testing.assert_close(logits[n, v], cosine / 0.1)


def test_fp32_under_autocast():
    vectors, codebook = torch.randn(64, 256), torch.rand(32, 256)
    expected = cosine_logits(vectors, codebook, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = cosine_logits(vectors, codebook, 0.1)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


def test_the_nearest_codeword(monkeypatch):
    vectors, codebook = torch.randn(50, 3), torch.randn(9, 3)
    nearest = nearest_codewords(vectors, codebook)
    for vector, found in zip(vectors, nearest.tolist(), strict=True):
        assert found == min(range(9), key=lambda v: float((vector - codebook[v]).square().sum()))
    monkeypatch.setattr("hf_ssl.modeling.blocks.codebook.DISTANCES_AT_ONCE", 70)  # 7 chunks of 7 and one of 1
    assert torch.equal(nearest_codewords(vectors, codebook), nearest)


def test_perplexity_is_the_number_of_codes_in_use():
    assert code_perplexity(torch.tensor([3, 3, 3, -100]), 8).item() == pytest.approx(1)
    assert code_perplexity(torch.arange(8).repeat(5), 8).item() == pytest.approx(8)
    # entropy of (1/2, 1/4, 1/4) is 1.5 bits
    assert code_perplexity(torch.tensor([0, 0, 5, -100, 7]), 8).item() == pytest.approx(2**1.5)
    assert torch.isfinite(code_perplexity(torch.tensor([-100]), 8))


def test_special_labels_come_first():
    released = torch.arange(504.0)[:, None].expand(504, 3)
    codebook = drop_special_labels(released, 500)
    assert codebook.shape == (500, 3)
    for cluster in (0, 1, 499):
        assert codebook[cluster, 0] == cluster + 4
    with pytest.raises(InputError, match=r"504 label embeddings, not 4 special ones and 100 .* num_clusters=500"):
        drop_special_labels(released, 100)

import torch

from hf_ssl.modeling.blocks.codebook import cosine_logits


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

import pytest
import torch

from hf_ssl.modeling.blocks.codebook import code_perplexity
from hf_ssl.modeling.blocks.random_projection import RandomProjectionQuantizer


def quantizer(input_size=20, code_size=6, num_codes=50, num_codebooks=2, seed=0) -> RandomProjectionQuantizer:
    return RandomProjectionQuantizer(input_size, code_size, num_codes, num_codebooks, seed)


def nearest_code(vector, projection, codebook) -> int:
    """The paper's equation (1), code by code: between unit vectors, the least Euclidean distance."""
    projected = projection.T @ vector
    distances = [(code / code.norm() - projected / projected.norm()).norm().item() for code in codebook]
    return distances.index(min(distances))


def test_codes_are_the_nearest():
    module, vectors = quantizer(), torch.randn(40, 20)
    codes = module(vectors)
    assert codes.shape == (40, 2)
    for n in range(40):
        for c in range(2):
            assert codes[n, c] == nearest_code(vectors[n], module.projection[c], module.codebook[c])


def test_projections_are_xaviers_and_codes_are_unit_vectors():
    module = quantizer(input_size=320, code_size=16, num_codes=8192, num_codebooks=1)
    assert module.projection.std().item() == pytest.approx((2 / (320 + 16)) ** 0.5, rel=0.05)
    torch.testing.assert_close(module.codebook.norm(dim=-1), torch.ones(1, 8192))
    assert module.codebook.mean(dim=1).abs().max() < 0.02  # they point everywhere
    # Codebooks differ, and so do those of another seed.
    assert not torch.equal(quantizer().codebook[0], quantizer().codebook[1])
    assert not torch.equal(quantizer(seed=1).codebook, quantizer(seed=2).codebook)


def test_normalised_vectors_use_most_codes_and_a_shift_collapses_them():
    module = quantizer(input_size=320, code_size=16, num_codes=256, num_codebooks=1)
    vectors = torch.randn(20_000, 320)
    assert code_perplexity(module(vectors)[:, 0], 256) > 200
    assert code_perplexity(module(vectors - 10)[:, 0], 256) < 10


def test_state_is_saved_and_nothing_is_trained():
    module = quantizer()
    assert set(module.state_dict()) == {"projection", "codebook"}
    assert not list(module.parameters())


def test_fp32_under_autocast_and_in_one_graph():
    module, vectors = quantizer(num_codes=500), torch.randn(300, 20)
    codes = module(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(vectors), codes)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(vectors), codes)

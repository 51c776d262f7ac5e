import math

import pytest
import torch
from torch.nn import functional as F
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

from hf_ssl.modeling.blocks.gumbel_quantizer import (
    GumbelQuantizer,
    choice_perplexity,
    gumbel_noise,
    probability_perplexity,
)
from tests.modeling.blocks.joint_rows import rows

G, V, DIM, C = 2, 5, 6, 8


def make_quantizer():
    torch.manual_seed(0)
    return GumbelQuantizer(C, G, V, DIM)


def transformers_quantizer(ours):
    config = Wav2Vec2Config(
        conv_dim=(C,) * 7, num_codevector_groups=G, num_codevectors_per_group=V, codevector_dim=DIM
    )
    theirs = Wav2Vec2GumbelVectorQuantizer(config)
    theirs.load_state_dict(ours.state_dict())  # the same names and shapes
    return theirs


def chosen_one_by_one(quantizer, vectors, noise):
    """For each vector and group the code of the highest score, as the paper says it."""
    codebooks = quantizer.codevectors.view(G, V, DIM // G)
    chosen = torch.empty(*vectors.shape[:2], DIM)
    for b in range(vectors.shape[0]):
        for p in range(vectors.shape[1]):
            scores = quantizer.weight_proj(vectors[b, p]) + noise[b, p]
            parts = [codebooks[g, scores[g * V : (g + 1) * V].argmax()] for g in range(G)]
            chosen[b, p] = torch.cat(parts)
    return chosen


def test_codes_are_chosen_by_score_and_noise():
    quantizer, vectors = make_quantizer(), torch.randn(2, 9, C)
    noise = torch.stack([gumbel_noise(9, G * V, torch.Generator().manual_seed(b)) for b in range(2)])
    with torch.no_grad():
        quantised, logits = quantizer(vectors, noise, torch.tensor(0.7))
        assert torch.equal(quantised, chosen_one_by_one(quantizer, vectors, noise))  # to the last bit
        plain, _ = quantizer(vectors, None, torch.tensor(0.7))
        assert torch.equal(plain, chosen_one_by_one(quantizer, vectors, torch.zeros_like(noise)))
        torch.testing.assert_close(logits.flatten(2), quantizer.weight_proj(vectors))
    assert not torch.equal(plain, quantised)


def test_trains_as_transformers_quantizer_with_the_same_noise():
    """Value and gradients; their noise is drawn by `torch.nn.functional.gumbel_softmax` from the global generator."""
    ours = make_quantizer()
    theirs = transformers_quantizer(ours).train()
    theirs.temperature = 1.3
    vectors, direction = torch.randn(2, 9, C), torch.randn(2, 9, DIM)
    torch.manual_seed(3)
    noise = -torch.empty(2 * 9 * G, V).exponential_().log()
    torch.manual_seed(3)
    expected, perplexity = theirs(vectors)
    quantised, logits = ours(vectors, noise.view(2, 9, G * V), torch.tensor(1.3))
    torch.testing.assert_close(quantised, expected)
    everything = torch.ones(2, 9, dtype=torch.bool)
    torch.testing.assert_close(probability_perplexity(logits, everything).sum(), perplexity)
    ((quantised * direction).sum() + probability_perplexity(logits, everything).sum()).backward()
    ((expected * direction).sum() + perplexity).backward()
    for (name, parameter), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, msg=name)


def test_evaluates_as_transformers_quantizer():
    ours = make_quantizer()
    theirs = transformers_quantizer(ours).eval()
    vectors, mask = torch.randn(2, 9, C), torch.rand(2, 9) < 0.6
    expected, perplexity = theirs(vectors, mask)
    quantised, logits = ours(vectors, None, torch.tensor(2.0))
    assert torch.equal(quantised, expected)
    torch.testing.assert_close(choice_perplexity(logits, mask).sum(), perplexity)


def test_without_noise_no_gradient_reaches_the_scores():
    quantizer = make_quantizer()
    quantizer(torch.randn(1, 4, C), None, torch.tensor(2.0)).vectors.sum().backward()
    assert quantizer.weight_proj.weight.grad is None
    assert quantizer.codevectors.grad.count_nonzero() > 0


def test_colder_choices_have_sharper_gradients():
    """The share of the gradient that goes to the chosen code's score: softmax((l + n) / τ) approaches one-hot."""
    quantizer, vectors = make_quantizer(), torch.randn(1, 200, C) / 10
    noise = gumbel_noise(200, G * V, torch.Generator().manual_seed(0))[None]
    norms = []
    for tau in (2.0, 0.01):
        quantizer.zero_grad()
        quantizer(vectors, noise, torch.tensor(tau)).vectors.sum().backward()
        norms.append(quantizer.weight_proj.bias.grad.norm() * tau)
    assert norms[1] < 0.1 * norms[0]


def test_noise_is_gumbels():
    """Mean γ = .5772, variance π²/6."""
    noise = gumbel_noise(1000, 200, torch.Generator().manual_seed(0))
    assert noise.shape == (1000, 200)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert noise.isfinite().all()


@pytest.mark.parametrize("perplexity", [probability_perplexity, choice_perplexity])
def test_perplexity_has_its_bounds(perplexity):
    counted = torch.ones(1, V, dtype=torch.bool)
    same = torch.full((1, V, G, V), -50.0)
    same[..., 3] = 50.0
    torch.testing.assert_close(perplexity(same, counted), torch.ones(G))
    each_another = 100 * torch.eye(V)[None, :, None].expand(1, V, G, V)
    torch.testing.assert_close(perplexity(each_another, counted), torch.full((G,), float(V)))


@pytest.mark.parametrize("perplexity", [probability_perplexity, choice_perplexity])
def test_what_fills_the_rectangle_is_not_counted(perplexity):
    logits = torch.randn(2, 7, G, V)
    counted = torch.arange(7) < torch.tensor([[7], [4]])
    packed = torch.cat([logits[0], logits[1, :4]])[None]
    torch.testing.assert_close(perplexity(logits, counted), perplexity(packed, counted.new_ones(1, 11)))


def test_probability_perplexity_is_the_entropy_of_the_mean():
    logits = torch.randn(1, 7, G, V)
    for g in range(G):
        mean = sum(F.softmax(logits[0, p, g], dim=0) for p in range(7)) / 7
        entropy = -sum(p.item() * math.log(p.item()) for p in mean)
        value = probability_perplexity(logits, torch.ones(1, 7, dtype=torch.bool))[g]
        assert value.item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_the_gradient_of_a_probability_that_underflows_is_finite():
    logits = torch.tensor([0.0, 0.0, -500.0]).expand(1, 4, 1, 3).clone().requires_grad_()
    probability_perplexity(logits, torch.ones(1, 4, dtype=torch.bool)).sum().backward()
    assert logits.grad.isfinite().all()


def test_probability_perplexity_is_that_of_all_processes(ranks):
    logits = rows(4, 3, G, V).requires_grad_()
    value = probability_perplexity(logits, torch.arange(12).view(4, 3) != 7)
    value.sum().backward()
    for rank, gradient in zip(ranks, logits.grad.chunk(2), strict=True):
        torch.testing.assert_close(rank["perplexity"]["value"], value.detach())
        # Each rank's loss is its share of the joint one: here one half.
        torch.testing.assert_close(rank["perplexity"]["gradient"], gradient)


def test_bf16_keeps_scores_in_fp32():
    quantizer, vectors = make_quantizer(), torch.randn(2, 9, C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantised, logits = quantizer(vectors, None, torch.tensor(2.0))
    exact, scores = quantizer(vectors, None, torch.tensor(2.0))
    assert torch.equal(quantised, exact)
    assert torch.equal(logits, scores)
    half = quantizer.bfloat16()(vectors.bfloat16(), None, torch.tensor(2.0))
    assert half.vectors.dtype == half.logits.dtype == torch.float32


def test_compiles_without_a_break():
    quantizer = make_quantizer()
    noise = gumbel_noise(9, G * V, torch.Generator().manual_seed(0))[None]
    counted = torch.ones(1, 9, dtype=torch.bool)

    def step(vectors):
        quantised, logits = quantizer(vectors, noise, torch.tensor(2.0))
        return quantised.square().sum() + probability_perplexity(logits, counted).sum()

    vectors = torch.randn(1, 9, C)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (step, compiled):
        quantizer.zero_grad()
        function(vectors).backward()
        gradients.append(quantizer.weight_proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)

"""Discrete vectors that can be learned: a product of codebooks, chosen from by a straight-through Gumbel softmax."""

# B rows, P vectors of a row, C numbers of a vector, G groups, V codes of a group, d = D / G numbers of a code

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from hf_ssl.modeling.blocks.codebook import code_perplexity
from hf_ssl.modeling.blocks.gather import sum_over_processes


class Quantized(NamedTuple):
    """What a quantiser makes of vectors.

    Args:
        vectors (`Tensor` of shape `(B, P, D)`): the codes that were chosen, one of each group, side by side; fp32.
        logits (`Tensor` of shape `(B, P, G, V)`): the scores of the codes, without noise; fp32.
    """

    vectors: Tensor
    logits: Tensor


class GumbelQuantizer(nn.Module):
    """The product quantiser of vq-wav2vec and wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477, section 2).

    In each group g the code i = argmax_v (l_v + n_v) is chosen, by the scores l of a linear layer and Gumbel noise n;
    the gradient is that of p_v = softmax_v((l_v + n_v) / τ), as if the softmax had weighed all codes
    (straight-through; Jang et al. 2017, arXiv:1611.01144). Its parameters are those of transformers'
    `Wav2Vec2GumbelVectorQuantizer`.

    The weights are exactly 0 and 1, so that equal choices give equal vectors; the reference adds and subtracts p in
    another order, which leaves a rounding error on the vectors.

    Args:
        input_size (`int`): C.
        num_groups (`int`): G.
        num_codes (`int`): V, in each group; groups do not share codes.
        dim (`int`): D, a multiple of G.
    """

    def __init__(self, input_size: int, num_groups: int, num_codes: int, dim: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.codevectors = nn.Parameter(torch.empty(1, num_groups * num_codes, dim // num_groups))
        self.weight_proj = nn.Linear(input_size, num_groups * num_codes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scores that differ (weights from N(0, 1)), codes from U(0, 1); a model's `_init_weights` has to call it."""
        init.normal_(self.weight_proj.weight)
        init.zeros_(self.weight_proj.bias)
        init.uniform_(self.codevectors)

    def forward(self, vectors: Tensor, noise: Tensor | None, temperature: Tensor) -> Quantized:
        """Chooses codes for vectors, in fp32 even under autocast.

        Args:
            vectors (`Tensor` of shape `(B, P, C)`): what is quantised.
            noise (`Tensor` of shape `(B, P, G * V)`, *optional*): of [`gumbel_noise`]; without it the code of the
                highest score is chosen, and no gradient reaches the scores through the vectors.
            temperature (scalar `Tensor`): τ > 0.

        Returns:
            [`Quantized`]: the chosen codes, and the scores.
        """
        codebooks = self.codevectors.float().unflatten(1, (self.num_groups, -1))[0]  # (G, V, d)
        with torch.autocast(vectors.device.type, enabled=False):
            weight, bias = self.weight_proj.weight.float(), self.weight_proj.bias.float()
            logits = F.linear(vectors.float(), weight, bias).unflatten(-1, codebooks.shape[:2])  # (B, P, G, V)
            scores = logits if noise is None else logits + noise.view_as(logits)
            chosen = scores.argmax(dim=-1, keepdim=True)
            weights = torch.zeros_like(scores).scatter(-1, chosen, 1.0)  # (B, P, G, V)
            if noise is not None:
                soft = (scores / temperature).softmax(dim=-1)
                weights = weights + (soft - soft.detach())
            return Quantized(torch.einsum("bpgv,gvd->bpgd", weights, codebooks).flatten(2), logits)


def gumbel_noise(num_vectors: int, size: int, generator: torch.Generator) -> Tensor:
    """Noise from Gumbel(0, 1), `−log E` with E from Exp(1).

    Args:
        num_vectors (`int`): P.
        size (`int`): of one vector's noise, G · V.
        generator (`torch.Generator`): a CPU generator, the only source of randomness.

    Returns:
        `Tensor` of shape `(P, size)`, fp32.
    """
    return -torch.empty(num_vectors, size).exponential_(generator=generator).log()


def probability_perplexity(logits: Tensor, is_counted: Tensor) -> Tensor:
    """How many codes of each group are likely, evenly: `exp(H(p̄))` of the mean distribution `p̄ = mean softmax(l)`.

    The diversity term of wav2vec 2.0 (section 3.2) is `(GV − Σ_g exp(H(p̄_g))) / GV`. The mean is over the counted
    vectors of all processes, as if one had held them all; the gradient is that of such a process.

    Args:
        logits (`Tensor` of shape `(B, P, G, V)`): scores without noise; no temperature enters.
        is_counted (boolean `Tensor` of shape `(B, P)`): `False` = fills the rectangle.

    Returns:
        `Tensor` of shape `(G,)`, each in [1, V].
    """
    probabilities = logits.float().softmax(dim=-1) * is_counted[..., None, None]
    total, count = sum_over_processes(probabilities.sum(dim=(0, 1))), sum_over_processes(is_counted.sum())
    mean = total / count.clamp(min=1)  # (G, V)
    # Not x log x, whose gradient is infinite for a probability that has underflowed to 0.
    return torch.exp(-(mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum(dim=-1))


@torch.no_grad()
def choice_perplexity(logits: Tensor, is_counted: Tensor) -> Tensor:
    """How many codes of each group are chosen evenly, without noise: the perplexity of their frequencies.

    Args:
        logits (`Tensor` of shape `(B, P, G, V)`): scores without noise.
        is_counted (boolean `Tensor` of shape `(B, P)`): `False` = fills the rectangle.

    Returns:
        `Tensor` of shape `(G,)`, each in [1, V]; of this process's vectors alone.
    """
    codes = logits.argmax(dim=-1).masked_fill(~is_counted[..., None], -1)
    return torch.stack([code_perplexity(group.flatten(), logits.shape[-1]) for group in codes.unbind(dim=-1)])

"""Scores of vectors against the entries of a codebook."""

import torch
from torch import Tensor
from torch.nn import functional as F

# N vectors, D dimensions, V codewords


def cosine_logits(vectors: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """The cosine of every vector with every codeword over a temperature, in fp32: one matrix product of unit vectors.

    Its softmax cross entropy equals the noise-contrastive form with one positive and all codewords but the target as
    negatives, without that form's (V, N, D) broadcast.

    Args:
        vectors (`Tensor` of shape `(N, D)`): what is scored.
        codebook (`Tensor` of shape `(V, D)`): the codewords.
        temperature (`float`): > 0.

    Returns:
        `Tensor` of shape `(N, V)`, fp32 even under autocast, in ±1/temperature.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(vectors.float(), dim=-1) @ F.normalize(codebook.float(), dim=-1).T / temperature

"""Vectors against the entries of a codebook: scores, and the nearest."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ssl.errors import InputError

NUM_SPECIAL_LABELS = 4
"""Symbols (`<s>`, `<pad>`, `</s>`, `<unk>`) that come before the clusters in a dictionary of fairseq."""

DISTANCES_AT_ONCE = 2**20
"""4 MB: the distances of a chunk of vectors stay in the cache between product and argmin."""

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


def nearest_codewords(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The nearest codeword of each vector: `argmin_v |c_v|² − 2 x·c_v`, a matrix product in chunks.

    Args:
        vectors (`Tensor` of shape `(N, D)`): on any device, N ≥ 1.
        codebook (`Tensor` of shape `(V, D)`): in the same precision.

    Returns:
        `Tensor` of shape `(N,)`, int64, on the device of the codebook.
    """
    squared_norms = codebook.square().sum(dim=1)
    chunks = vectors.split(max(1, DISTANCES_AT_ONCE // len(codebook)))
    return torch.cat(
        [_argmin(torch.addmm(squared_norms, chunk.to(codebook.device), codebook.T, alpha=-2)) for chunk in chunks]
    )


def _argmin(scores: Tensor) -> Tensor:
    """The least of each row, `(N, V)` to `(N,)`. On a CPU numpy's takes half the time of torch's."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmin(axis=1))
    return scores.argmin(dim=1)


def drop_special_labels(label_embeddings: Tensor, num_clusters: int) -> Tensor:
    """The codewords of the clusters among the label embeddings of a HuBERT of fairseq (`label_embs_concat`).

    There, cluster `c` is row `4 + c`: the dictionary of the labels begins with four special symbols, which no frame is
    labelled with. Released checkpoints have 104 or 504 rows. In fairseq the four are negatives of every prediction;
    without them the softmax has as many terms less.

    Args:
        label_embeddings (`Tensor` of shape `(4 + V, D)`): as released.
        num_clusters (`int`): V.

    Returns:
        `Tensor` of shape `(V, D)`: row `c` is the codeword of cluster `c`.

    Raises:
        InputError: for another number of rows.
    """
    if len(label_embeddings) != NUM_SPECIAL_LABELS + num_clusters:
        raise InputError(
            f"There are {len(label_embeddings)} label embeddings, not {NUM_SPECIAL_LABELS} special ones and "
            f"{num_clusters} of clusters; give num_clusters={len(label_embeddings) - NUM_SPECIAL_LABELS}."
        )
    return label_embeddings[NUM_SPECIAL_LABELS:]


def code_perplexity(codes: Tensor, num_codes: int) -> Tensor:
    """How many codes are used evenly: the exponential of the entropy of their frequencies.

    Args:
        codes (`Tensor` of shape `(N,)`): int, in 0 … V − 1; negative ones are not counted.
        num_codes (`int`): V.

    Returns:
        scalar `Tensor` in [1, V]; at most N, so few codes cannot tell that many are used.
    """
    counts = torch.zeros(num_codes, device=codes.device).scatter_add(0, codes.clamp(min=0), (codes >= 0).float())
    share = counts / counts.sum().clamp(min=1)
    return torch.exp(-torch.special.xlogy(share, share).sum())

"""Contrastive losses: tell the other view of the same example from the views of all others."""

# B examples of this process, R processes, N = R * B examples, D dimensions

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_ssl.modeling.blocks.gather import gather_with_gradient, num_processes, process_rank


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised temperature-scaled cross-entropy of two views (Chen et al. 2020, Eq. 1).

    For each view i of this process, with j the other view of the same example, over the 2N views of all processes:
    `l_i = -log( exp(sim(z_i, z_j) / τ) / Σ_{k ≠ i} exp(sim(z_i, z_k) / τ) )`, `sim` being the cosine.

    Similarities are computed in fp32 with autocast off: at τ = 0.1 the error of bf16 is as large as what tells near
    negatives apart.

    Args:
        first (`Tensor` of shape `(B, D)`): this process's first views; they need not be normalised.
        second (`Tensor` of shape `(B, D)`): the second views, in the same order.
        temperature (`float`): τ > 0.

    Returns:
        loss (scalar): mean of `l_i` over this process's 2B views, in nats; the gradient flows through both sides of
            every pair and through the gathered rows of the other processes.
        logits (`Tensor` of shape `(2B, 2N)`): cosines over τ; rows are `[first; second]` of this process, columns
            `[first; second]` of all. A view's similarity to itself holds the lowest finite number, so softmax gives it
            no weight.
        targets (`Tensor` of shape `(2B,)`): the column of each row's positive.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
        candidates = torch.cat([gather_with_gradient(first), gather_with_gradient(second)])  # (2N, D)
        logits = torch.cat([first, second]) @ candidates.T / temperature  # (2B, 2N)

        num_local, num_all = len(first), len(first) * num_processes()
        in_first = torch.arange(num_local, device=logits.device) + process_rank() * num_local
        in_second = in_first + num_all
        itself = torch.cat([in_first, in_second])
        targets = torch.cat([in_second, in_first])

        # not -inf, which turns the entropy of these scores into NaN (0 * -inf)
        logits = logits.scatter(1, itself[:, None], torch.finfo(logits.dtype).min)
        return F.cross_entropy(logits, targets), logits, targets


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The contrastive loss against a memory of negatives (He et al. 2019, arXiv:1911.05722, Eq. 1).

    `l_i = -log( exp(q_i·k_i / τ) / (exp(q_i·k_i / τ) + Σ_n exp(q_i·n / τ)) )`, all of length 1; in fp32, autocast off.

    Args:
        queries (`Tensor` of shape `(B, D)`): they need not be normalised.
        keys (`Tensor` of shape `(B, D)`): the positive of each query; likewise.
        negatives (`Tensor` of shape `(K, D)`): unit vectors, the same for all queries.
        temperature (`float`): τ > 0.

    Returns:
        loss (scalar): mean of `l_i`, in nats.
        logits (`Tensor` of shape `(B, 1 + K)`): cosines over τ; the first column is the positive.
        targets (`Tensor` of shape `(B,)`): zeros.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = F.normalize(queries.float(), dim=1), F.normalize(keys.float(), dim=1)
        positive = (queries * keys).sum(dim=1, keepdim=True)  # (B, 1)
        logits = torch.cat([positive, queries @ negatives.T], dim=1) / temperature
        targets = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
        return F.cross_entropy(logits, targets), logits, targets


def info_nce_in_batch(anchors: Tensor, candidates: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The contrastive loss whose negatives are the other candidates of the batch, those of all processes.

    `l_i = -log( exp(a_i·c_i / τ) / Σ_k exp(a_i·c_k / τ) )`, all of length 1; in fp32, autocast off. Unlike in
    [`nt_xent`] no anchor is a candidate (MoCo v3, NNCLR).

    Args:
        anchors (`Tensor` of shape `(B, D)`): this process's; they need not be normalised.
        candidates (`Tensor` of shape `(B, D)`): in the same order; likewise.
        temperature (`float`): τ > 0.

    Returns:
        loss (scalar): mean of `l_i` over this process's anchors, in nats; the gradient reaches whichever side has one,
            on every process.
        logits (`Tensor` of shape `(B, N)`): cosines over τ.
        targets (`Tensor` of shape `(B,)`): the column of each row's positive.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, candidates = F.normalize(anchors.float(), dim=1), F.normalize(candidates.float(), dim=1)
        logits = anchors @ gather_with_gradient(candidates).T / temperature
        targets = torch.arange(len(anchors), device=anchors.device) + process_rank() * len(anchors)
        return F.cross_entropy(logits, targets), logits, targets

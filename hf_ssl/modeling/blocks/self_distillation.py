"""The cross entropy of self-distillation: a student's distribution over prototypes should be its teacher's."""

# N rows (images, or patches), V views of the student, T of the teacher, E bottleneck size, K prototypes

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax

LOGITS_AT_ONCE = 2**25
"""Scores of the student that exist at a time: 128 MiB in fp32, of which the step needs several."""


class Distillation(NamedTuple):
    """What self-distillation makes of N rows.

    Args:
        cross_entropy (`Tensor` of shape `(N, T, V)`): `H(P_t, P_s)` of each pair of views of a row, in nats.
        teacher_entropy (`Tensor` of shape `(N, T)`): `H(P_t)`, without gradient.
        marginal (`Tensor` of shape `(K,)`): the weighted mean of P_t over rows and views, without gradient.
    """

    cross_entropy: Tensor
    teacher_entropy: Tensor
    marginal: Tensor


def distil(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    *,
    temperature: float,
    sharpen: CentredSoftmax,
    weights: Tensor,
) -> Distillation:
    """Compare a student to its teacher: `P_s = softmax(z W / τ)`, `P_t` as [`CentredSoftmax`] has it.

    The student's `log P_s` is made once for all the teachers' views, and `H(P_t, P_s) = −Σ_k P_t,k log P_s,k` is one
    matrix product an image. Where rows and prototypes are many, the rows go through in pieces whose scores are
    computed again in the backward pass, so that the scores of one piece exist at a time.

    Everything is fp32: at τ = 0.04 the error of bf16 is as large as what tells prototypes apart.

    Args:
        student (`Tensor` of shape `(N, V, E)`): z, fp32, with gradient.
        teacher (`Tensor` of shape `(N, T, E)`): fp32, without gradient.
        prototypes (`Tensor` of shape `(K, E)`): the student's W, with gradient.
        teacher_prototypes (`Tensor` of shape `(K, E)`): the teacher's.
        temperature (`float`): τ > 0 of the student.
        sharpen ([`CentredSoftmax`]): the teacher's scores to probabilities.
        weights (`Tensor` of shape `(N,)`): of the rows in `marginal`; their sum is 1.

    Returns:
        [`Distillation`].
    """

    def piece(student: Tensor, teacher: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            targets, entropy = sharpen(teacher @ teacher_prototypes.T)  # (n, T, K), (n, T)
            marginal = torch.einsum("n,ntk->k", weights, targets) / targets.shape[1]
        log_probabilities = ((student / temperature) @ prototypes.T).log_softmax(dim=-1)  # (n, V, K)
        return -(targets @ log_probabilities.transpose(1, 2)), entropy, marginal  # (n, T, V) first

    with torch.autocast(student.device.type, enabled=False):
        num_rows = max(1, LOGITS_AT_ONCE // (student.shape[1] * len(prototypes)))
        if len(student) <= num_rows:
            return Distillation(*piece(student, teacher, weights))
        pieces = zip(*(tensor.split(num_rows) for tensor in (student, teacher, weights)), strict=True)
        results = [checkpoint(piece, *tensors, use_reentrant=False) for tensors in pieces]
    cross_entropies, entropies, marginals = zip(*results, strict=True)
    return Distillation(torch.cat(cross_entropies), torch.cat(entropies), sum(marginals))


def other_views(num_teacher: int, num_student: int, device: torch.device) -> Tensor:
    """Weights (T, V) of the pairs of views that DINO compares, with the sum 1: all but a view with itself.

    The first T of the student's views are those that the teacher sees.
    """
    pairs = 1 - torch.eye(num_teacher, num_student, device=device)
    return pairs / (num_teacher * (num_student - 1))


@torch.no_grad()
def collapse_diagnostics(distilled: Distillation, weights: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """What tells the two collapses apart (Caron et al. 2021, section 5.3 and figure 7).

    A teacher that is uniform has the entropy ln K and `kl_to_uniform` 0. A teacher that always chooses the same
    dimension has the entropy 0, and so has one that works; but of its K prototypes it uses `prototypes_used` 1. In
    both cases the student has nothing left to learn, and `kl_to_student` is 0.

    Args:
        distilled ([`Distillation`]): of N rows.
        weights (`Tensor` of shape `(N,)`): of the rows; their sum is 1.
        pairs (`Tensor` of shape `(T, V)`): of the pairs of views; their sum is 1.

    Returns:
        `dict[str, Tensor]`: scalars: `teacher_entropy` of a view, in [0, ln K] nats; `kl_to_uniform`, ln K less that;
            `kl_to_student`, ≥ 0; `prototypes_used`, the exponential of the entropy of the teacher's mean
            distribution, in [1, K].
    """
    # of each view as often as it is compared
    entropy = torch.einsum("n,nt,tv->", weights, distilled.teacher_entropy, pairs)
    cross_entropy = torch.einsum("n,ntv,tv->", weights, distilled.cross_entropy, pairs)
    marginal = distilled.marginal
    return {
        "teacher_entropy": entropy,
        "kl_to_uniform": math.log(len(marginal)) - entropy,
        "kl_to_student": cross_entropy - entropy,
        "prototypes_used": torch.exp(-torch.special.xlogy(marginal, marginal).sum()),
    }

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_ssl.modeling.blocks import self_distillation
from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax
from hf_ssl.modeling.blocks.self_distillation import collapse_diagnostics, distil, other_views
from tests.modeling.no_waiting import NoWaiting

N, V, T, E, K = 5, 4, 2, 3, 6


def softmax_of(size: int = K, temperature: float = 0.05) -> CentredSoftmax:
    return CentredSoftmax(
        size, centre_decay=0.9, temperature=temperature, final_temperature=temperature, warmup_share=0.0
    )


def inputs(num_prototypes: int = K) -> dict[str, Tensor]:
    """Unit vectors and prototypes, the student's with gradient."""
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1)

    return {
        "student": unit(N, V, E).requires_grad_(),
        "teacher": unit(N, T, E),
        "prototypes": unit(num_prototypes, E).requires_grad_(),
        "teacher_prototypes": unit(num_prototypes, E),
    }


def distilled(tensors: dict[str, Tensor], sharpen: CentredSoftmax | None = None) -> self_distillation.Distillation:
    num_rows = len(tensors["student"])
    weights = torch.full((num_rows,), 1 / num_rows)
    return distil(
        **tensors, temperature=0.1, sharpen=sharpen or softmax_of(len(tensors["prototypes"])), weights=weights
    )


def test_cross_entropies_are_those_of_the_definition() -> None:
    tensors, sharpen = inputs(), softmax_of()
    sharpen.centre.copy_(0.1 * torch.arange(K))
    result = distilled(tensors, sharpen)
    marginal = torch.zeros(K)
    for n in range(N):
        for t in range(T):
            g = tensors["teacher_prototypes"] @ tensors["teacher"][n, t]
            p_t = torch.softmax((g - sharpen.centre) / 0.05, dim=0)
            marginal += p_t / (N * T)
            torch.testing.assert_close(result.teacher_entropy[n, t], -(p_t * p_t.log()).sum())
            for v in range(V):
                log_p_s = torch.log_softmax(tensors["prototypes"] @ tensors["student"][n, v] / 0.1, dim=0)
                torch.testing.assert_close(result.cross_entropy[n, t, v], -(p_t * log_p_s).sum())
    torch.testing.assert_close(result.marginal, marginal)


def gradients(tensors: dict[str, Tensor]) -> tuple[self_distillation.Distillation, list[Tensor]]:
    result = distilled(tensors)
    loss = (result.cross_entropy * torch.arange(1.0, N * T * V + 1).view(N, T, V)).sum()
    return result, list(torch.autograd.grad(loss, (tensors["student"], tensors["prototypes"])))


def test_rows_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole_gradients = gradients(inputs())
    monkeypatch.setattr(self_distillation, "LOGITS_AT_ONCE", 2 * V * K)  # two rows at a time, the last by itself
    cut, cut_gradients = gradients(inputs())
    for left, right in zip((*whole, *whole_gradients), (*cut, *cut_gradients), strict=True):
        torch.testing.assert_close(left, right)


def test_rows_in_pieces_never_hold_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(NoWaiting):
        num_values = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = super().__torch_dispatch__(function, types, args, kwargs)
            if isinstance(result, Tensor):
                Largest.num_values = max(Largest.num_values, result.numel())
            return result

    monkeypatch.setattr(self_distillation, "LOGITS_AT_ONCE", V * 64)
    with Largest():
        gradients(inputs(num_prototypes=64))
    assert 0 < Largest.num_values <= V * 64


def test_a_uniform_student_and_teacher_have_the_entropy_ln_k() -> None:
    tensors = inputs()
    tensors["prototypes"] = torch.zeros(K, E)
    tensors["teacher_prototypes"] = torch.zeros(K, E)
    result, pairs = distilled(tensors), other_views(T, V, torch.device("cpu"))
    torch.testing.assert_close(result.cross_entropy, torch.full((N, T, V), math.log(K)))
    values = collapse_diagnostics(result, torch.full((N,), 1 / N), pairs)
    assert values["teacher_entropy"].item() == pytest.approx(math.log(K))
    assert values["kl_to_uniform"].item() == pytest.approx(0, abs=1e-6)
    assert values["kl_to_student"].item() == pytest.approx(0, abs=1e-6)
    assert values["prototypes_used"].item() == pytest.approx(K)


def test_a_teacher_of_one_dimension_is_told_from_one_that_works() -> None:
    """Both are sure of every image; only one of them says the same of all."""
    directions = torch.eye(K)
    of_rows = {"one": torch.zeros(K, dtype=torch.long), "many": torch.arange(K)}
    values = {}
    for name, chosen in of_rows.items():
        teacher = directions[chosen][:, None]  # (K rows, 1 view, K)
        tensors = {"student": teacher, "teacher": teacher, "prototypes": directions, "teacher_prototypes": directions}
        result = distilled(tensors)
        values[name] = collapse_diagnostics(result, torch.full((K,), 1 / K), torch.ones(1, 1))
        assert values[name]["teacher_entropy"].item() == pytest.approx(0, abs=1e-5)
        assert values[name]["kl_to_uniform"].item() == pytest.approx(math.log(K), abs=1e-5)
    assert values["one"]["prototypes_used"].item() == pytest.approx(1, abs=1e-4)
    assert values["many"]["prototypes_used"].item() == pytest.approx(K, rel=1e-4)


def test_pairs_of_different_views() -> None:
    assert other_views(2, 4, torch.device("cpu")).mul(6).tolist() == [[0, 1, 1, 1], [1, 0, 1, 1]]


def test_scores_are_fp32_under_autocast() -> None:
    exact = distilled(inputs()).cross_entropy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distilled(inputs()).cross_entropy, exact)

import math

import pytest
import torch

from hf_ssl.modeling.blocks.contrastive import info_nce, info_nce_in_batch, nt_xent
from tests.modeling.blocks.joint_rows import rows


def eq_1(first, second, temperature):
    """Eq. 1 of arXiv:2002.05709 term by term."""
    z = [*first.tolist(), *second.tolist()]
    n = len(first)

    def sim(u, v):
        dot = sum(a * b for a, b in zip(u, v, strict=True))
        return dot / math.sqrt(sum(a * a for a in u)) / math.sqrt(sum(b * b for b in v))

    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(math.exp(sim(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(sim(z[i], z[j]) / temperature) / denominator)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_equals_the_double_loop(temperature):
    first, second = rows(2, 5, 4)
    loss, _, _ = nt_xent(first, second, temperature)
    assert loss.item() == pytest.approx(eq_1(first, second, temperature), rel=1e-6)


def test_order_of_the_examples_does_not_matter():
    first, second = rows(2, 6, 4)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nt_xent(first[order], second[order], 0.2)[0], nt_xent(first, second, 0.2)[0])


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_identical_views_of_orthogonal_examples(temperature):
    n = 4
    loss, _, _ = nt_xent(3 * torch.eye(n), torch.eye(n), temperature)
    assert loss.item() == pytest.approx(math.log(1 + (2 * n - 2) * math.exp(-1 / temperature)), abs=1e-6)


def test_logits_and_targets_name_the_positive():
    first = torch.eye(3)
    _, logits, targets = nt_xent(first, first, 0.1)
    assert targets.tolist() == [3, 4, 5, 0, 1, 2]
    assert logits.argmax(dim=1).tolist() == targets.tolist()
    probabilities = logits.softmax(dim=1)
    assert torch.equal(probabilities.diagonal(), torch.zeros(6))
    assert torch.isfinite(logits).all()


def test_similarities_are_fp32_under_autocast():
    first, second = rows(2, 4, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logits, _ = nt_xent(first, second, 0.1)
    assert loss.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(first.float(), second.float(), 0.1)[0])


def test_two_processes_equal_one_with_all_rows(ranks):
    first, second = (half.clone().requires_grad_() for half in rows(2, 4, 3))
    loss, _, _ = nt_xent(first, second, 0.5)
    loss.backward()
    contrasted = [rank["contrasted"] for rank in ranks]
    torch.testing.assert_close((contrasted[0]["loss"] + contrasted[1]["loss"]) / 2, loss.detach())
    assert [one["targets"].tolist() for one in contrasted] == [[4, 5, 0, 1], [6, 7, 2, 3]]
    for view, gradient in enumerate((first.grad, second.grad)):
        joint = torch.cat([one["gradients"][view] for one in contrasted])
        torch.testing.assert_close(joint / 2, gradient)  # DDP's mean divides by the number of processes


def test_info_nce_equals_the_loop():
    queries, keys, queue = rows(3, 5, 4)
    queue = torch.nn.functional.normalize(queue, dim=1)

    def score(u, v):
        return math.exp(torch.nn.functional.cosine_similarity(u, v, dim=0).item() / 0.2)

    expected = 0.0
    for q, k in zip(queries, keys, strict=True):
        expected -= math.log(score(q, k) / (score(q, k) + sum(score(q, row) for row in queue))) / 5
    loss, logits, targets = info_nce(queries, keys, queue, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logits.shape == (5, 6)
    assert targets.tolist() == [0] * 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(info_nce(queries, keys, queue, 0.2)[0], loss)


def test_info_nce_in_batch_equals_the_loop():
    anchors, candidates = rows(2, 5, 4)
    expected = 0.0
    for i in range(5):
        scores = [torch.nn.functional.cosine_similarity(anchors[i], c, dim=0).item() / 0.3 for c in candidates]
        expected -= (scores[i] - math.log(sum(map(math.exp, scores)))) / 5
    loss, logits, targets = info_nce_in_batch(anchors, candidates, 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logits.shape == (5, 5)
    assert targets.tolist() == [0, 1, 2, 3, 4]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(info_nce_in_batch(anchors, candidates, 0.3)[0], loss)

import pytest
import torch
from torch import nn

from hf_ssl.modeling.blocks.teacher import copy_weights, cosine_decay, follow, freeze, linear_decay, make_teacher


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_teacher_is_a_frozen_copy_in_full_precision():
    original = student().bfloat16()
    teacher = make_teacher(original)
    assert not any(module.training for module in teacher.modules())
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in teacher.parameters())
    for ours, theirs in zip(teacher.parameters(), original.parameters(), strict=True):
        assert torch.equal(ours, theirs.float())
        assert ours.data_ptr() != theirs.data_ptr()


def test_following_is_the_moving_average():
    model = student()
    teacher = make_teacher(model)
    expected = [p.clone() for p in teacher.parameters()]
    for _ in range(3):
        for p in model.parameters():
            p.data += torch.randn_like(p)
        model(torch.randn(8, 3))  # moves the running statistics
        follow(teacher, model, decay=0.9)
        expected = [0.9 * old + 0.1 * new.detach() for old, new in zip(expected, model.parameters(), strict=True)]
    for ours, value in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, value)
    for ours, theirs in zip(teacher.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_student_in_half_precision_is_followed_in_full():
    model = student().bfloat16()
    teacher = make_teacher(model)
    for p in model.parameters():
        p.data += 1
    before = [p.clone() for p in teacher.parameters()]
    follow(teacher, model, decay=0.999)
    for old, ours, theirs in zip(before, teacher.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, 0.999 * old + 0.001 * theirs.float())
        assert not torch.equal(ours, old)


def test_copy_weights():
    model, teacher = student(), make_teacher(student())
    for p in model.parameters():
        p.data += 1
    copy_weights(teacher, model)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("progress", "value"), [(0.0, 0.999), (0.05, 0.99945), (0.1, 0.9999), (0.7, 0.9999), (1.0, 0.9999)]
)
def test_decay_rises_and_stays(progress, value):
    assert linear_decay(progress, 0.999, 0.9999, share=0.1) == pytest.approx(value)


def test_a_decay_without_a_rise_is_constant():
    assert linear_decay(0.0, 0.9, 0.99, share=0.0) == 0.99


def test_a_teacher_with_statistics_of_its_own():
    model = student()
    teacher = freeze(make_teacher(model), batch_statistics=True)
    assert [name for name, module in teacher.named_modules() if module.training] == ["1"]
    model(torch.randn(8, 3))
    before = [buffer.clone() for buffer in teacher.buffers()]
    follow(teacher, model, decay=0.0, copy_buffers=False)
    assert all(torch.equal(old, buffer) for old, buffer in zip(before, teacher.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), model.parameters(), strict=True))
    teacher(torch.randn(8, 3))
    assert not torch.equal(before[0], next(teacher.buffers()))


@pytest.mark.parametrize(("progress", "value"), [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0)])
def test_cosine_decay(progress, value):
    assert cosine_decay(progress, 0.996) == pytest.approx(value)

import math

import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.schedules import constant, cosine, linear, make_schedule, tri_stage


def test_linear() -> None:
    assert [linear(step, warmup=2, total=6) for step in range(7)] == [0, 0.5, 1, 0.75, 0.5, 0.25, 0]


def test_cosine_is_half_way_at_half_time() -> None:
    assert cosine(2, warmup=2, total=12) == 1
    assert cosine(7, warmup=2, total=12) == pytest.approx(0.5)
    assert cosine(12, warmup=2, total=12) == pytest.approx(0)


def test_they_end_at_a_share_of_the_peak() -> None:
    assert [linear(step, warmup=2, total=6, final_scale=0.2) for step in (1, 2, 4, 6)] == pytest.approx(
        [0.5, 1, 0.6, 0.2]
    )
    assert [cosine(step, warmup=2, total=12, final_scale=0.2) for step in (1, 2, 7, 12)] == pytest.approx(
        [0.5, 1, 0.6, 0.2]
    )


def test_the_last_rate_of_each_schedule() -> None:
    def last(name: str, final_scale: float | None) -> float:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        schedule = make_schedule(name, optimizer, warmup=0, total=4, hold_share=0.4, final_scale=final_scale)
        return schedule.lr_lambdas[0](4)

    names = ("linear", "cosine", "tri_stage", "constant")
    assert [last(name, None) for name in names] == pytest.approx([0, 0, 0.05, 1])
    assert [last(name, 0.3) for name in names] == pytest.approx([0.3, 0.3, 0.3, 1])


def test_constant() -> None:
    assert [constant(step, warmup=2, total=9) for step in (0, 1, 2, 8)] == [0, 0.5, 1, 1]
    assert constant(0, warmup=0, total=9) == 1


def test_tri_stage_is_fairseqs() -> None:
    stages = {"warmup": 10, "hold": 40, "total": 100, "final_scale": 0.05}
    assert tri_stage(0, **stages) == pytest.approx(0.01)
    assert tri_stage(5, **stages) == pytest.approx(0.01 + 0.99 * 0.5)
    assert tri_stage(10, **stages) == tri_stage(49, **stages) == 1
    assert tri_stage(75, **stages) == pytest.approx(math.sqrt(0.05))
    assert tri_stage(100, **stages) == pytest.approx(0.05)


def test_the_schedule_moves_the_optimizers_rate() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    schedule = make_schedule("linear", optimizer, warmup=2, total=4, hold_share=0.4, final_scale=None)
    rates = []
    for _ in range(4):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0, 1, 2, 1]


def test_a_group_may_have_a_schedule_of_its_own() -> None:
    decaying, staying = ({"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2))
    optimizer = torch.optim.SGD([decaying, {**staying, "schedule": "constant"}], lr=2.0)
    schedule = make_schedule("linear", optimizer, warmup=2, total=4, hold_share=0.4, final_scale=None)
    rates = []
    for _ in range(4):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert rates == [[0, 0], [1, 1], [2, 2], [1, 2]]


def test_a_tri_stage_schedule_without_time_to_decay() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(InputError, match="warm-up takes 50 and the peak 90 of 100 steps"):
        make_schedule("tri_stage", optimizer, warmup=50, total=100, hold_share=0.9, final_scale=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final_learning_rate_scale": 0.0, "schedule": "tri_stage"}, "final_learning_rate_scale is 0.0"),
        ({"final_learning_rate_scale": 1.5}, "final_learning_rate_scale is 1.5"),
        ({"max_parameter_grad_norm": 0.0}, "max_parameter_grad_norm is 0.0"),
        ({"final_weight_decay": 0.4, "weight_decay": 0.0}, "weight_decay is 0.0 and training.final_weight_decay 0.4"),
        ({"final_weight_decay": -0.1, "weight_decay": 0.1}, "final_weight_decay -0.1"),
        ({"hold_share": 1.5}, "hold_share is 1.5"),
        ({"optim": "adafactor"}, "training.optim has no effect here; use training.optimizer"),
        ({"lr_scheduler_type": "cosine"}, "use training.schedule"),
        ({"train_sampling_strategy": "group_by_length"}, "use training.max_batch_length"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SSLTrainingArguments(output_dir="x", **settings)

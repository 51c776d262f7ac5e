from pathlib import Path

import pytest
import torch
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.optimizers import clip_each_gradient, make_optimizer, parameter_groups, set_weight_decay


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def arguments(folder: Path, **values: object) -> SSLTrainingArguments:
    return SSLTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", **values)  # type: ignore[arg-type]


def test_vectors_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    net = model()
    net[2].requires_grad_(False)
    decayed, others = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert sorted(p.ndim for p in others["params"]) == [1, 1, 1]


def test_vectors_can_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    args = arguments(tmp_path, optimizer="sgd", learning_rate=1.6, bias_learning_rate=0.0384)
    assert [group["lr"] for group in make_optimizer(model(), args).param_groups] == [1.6, 0.0384]


def test_what_does_not_decay_makes_groups_of_its_own() -> None:
    net = model()
    groups = parameter_groups(net, 0.1, bias_learning_rate=0.5, constant=["0"])
    assert [group.get("schedule") for group in groups] == [None, None, "constant", "constant"]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    assert [group.get("lr") for group in groups] == [None, 0.5, None, 0.5]
    expected = [[net[2].weight], [net[1].weight, net[1].bias], [net[0].weight], [net[0].bias]]
    for group, parameters in zip(groups, expected, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters]


def test_lars_scales_matrices_and_leaves_vectors_to_sgd(tmp_path: Path) -> None:
    """You et al. 2017, arXiv:1708.03888, as SimCLR uses it: the step of a matrix is η‖w‖ / (‖g‖ + λ‖w‖) times (g +
    λw).
    """
    net = model()
    args = arguments(tmp_path, optimizer="lars", learning_rate=0.5, weight_decay=0.1, momentum=0.0)
    optimizer = make_optimizer(net, args)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net(torch.ones(5, 3)).square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}  # type: ignore[union-attr]
    optimizer.step()
    for name, parameter in net.named_parameters():
        weight, gradient = before[name], gradients[name]
        step = gradient
        if weight.ndim > 1:
            trust = args.trust_coefficient * weight.norm() / (gradient.norm() + 0.1 * weight.norm())
            step = trust * (gradient + 0.1 * weight)
        torch.testing.assert_close(parameter, weight - 0.5 * step)


def test_each_gradient_is_clipped_by_itself() -> None:
    net = model()
    net[1].requires_grad_(False)
    net(torch.ones(5, 3)).square().sum().mul(100).backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    before["0.bias"] = net[0].bias.grad.copy_(torch.tensor([0.1, 0.2, -0.3, 0.4])).clone()  # below the bound
    clip_each_gradient(net.parameters(), 3.0)
    assert net[1].weight.grad is None
    for name, parameter in net.named_parameters():
        if name in before:
            gradient = before[name]
            expected = gradient * min(1.0, 3.0 / (gradient.norm().item() + 1e-6))
            torch.testing.assert_close(parameter.grad, expected)
    assert before["2.weight"].norm() > 3
    assert net[2].weight.grad.norm().item() == pytest.approx(3)


def test_only_what_decays_gets_another_weight_decay(tmp_path: Path) -> None:
    optimizer = make_optimizer(model(), arguments(tmp_path, weight_decay=0.1))
    set_weight_decay(optimizer, 0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_every_optimizer_lowers_a_loss(name: str, tmp_path: Path) -> None:
    net = model()
    rate = {"adamw": 0.01, "sgd": 0.01, "lars": 0.05}[name]
    optimizer = make_optimizer(net, arguments(tmp_path, optimizer=name, learning_rate=rate))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (net(torch.ones(5, 3)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "lasr"}, "did you mean 'lars'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"bias_learning_rate": 0.0}, "bias_learning_rate is 0.0"),
        ({"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, "leave it out"),
    ],
)
def test_bad_arguments(values: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        arguments(tmp_path, **values)

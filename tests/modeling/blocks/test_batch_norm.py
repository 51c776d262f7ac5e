import pytest
import torch
from torch import nn

from hf_ssl.modeling.blocks.batch_norm import JointBatchNorm1d, JointBatchNorm2d, join_batch_norms
from tests.modeling.blocks.joint_rows import rows


@pytest.mark.parametrize(
    ("name", "plain", "shape"),
    [("normalised_1d", nn.BatchNorm1d, (8, 3)), ("normalised_2d", nn.BatchNorm2d, (4, 3, 2, 5))],
)
def test_two_processes_equal_one_with_all_rows(ranks, name, plain, shape):
    norm = plain(3)
    x = (3 + 2 * rows(*shape)).requires_grad_()
    y = norm(x)
    y.pow(3).mean().backward()
    expected = {"mean": norm.running_mean, "var": norm.running_var, "tracked": norm.num_batches_tracked}
    for rank, own, own_gradient in zip(ranks, y.chunk(2), x.grad.chunk(2), strict=True):
        got = rank[name]
        torch.testing.assert_close(got["output"], own)
        # each rank's loss is a mean over half of the rows: twice the joint loss's gradient
        torch.testing.assert_close(got["gradient"] / 2, own_gradient, rtol=1e-4, atol=1e-6)
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value)
    torch.testing.assert_close((ranks[0][name]["weight"] + ranks[1][name]["weight"]) / 2, norm.weight.grad)


def test_join_changes_classes_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(6, 3, 2, 2)
    expected = model(x)
    model.load_state_dict(before)
    join_batch_norms(model)
    assert [type(model[1]), type(model[4])] == [JointBatchNorm2d, JointBatchNorm1d]
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(model(x), expected)

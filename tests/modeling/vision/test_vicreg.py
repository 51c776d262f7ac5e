import math

import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.views import EncodedViews
from hf_ssl.modeling.vision.vicreg import VICRegConfig
from tests.modeling.vision.two_view_ranks import assert_two_processes_equal_one, build, joint_batch


def naive_terms(z, other):
    """s, v(Z) + v(Z') and c(Z) + c(Z') of arXiv:2105.04906 with their sums; s a mean over dimensions too."""
    n, d = z.shape
    invariance = sum((z[k, j] - other[k, j]).item() ** 2 for k in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for rows in (z, other):
        mean = [sum(rows[k, j].item() for k in range(n)) / n for j in range(d)]
        matrix = [
            [
                sum((rows[k, i] - mean[i]).item() * (rows[k, j] - mean[j]).item() for k in range(n)) / (n - 1)
                for j in range(d)
            ]
            for i in range(d)
        ]
        variance += sum(max(0.0, 1 - math.sqrt(matrix[j][j] + 1e-4)) for j in range(d)) / d
        covariance += sum(matrix[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return {"invariance": invariance, "variance": variance, "covariance": covariance}


@pytest.mark.parametrize("halved", [True, False])
def test_loss_is_equation_6(halved):
    model, pixel_values = build("vicreg", halve_variance=halved, covariance_weight=3.0), joint_batch()
    output = model(pixel_values)
    terms = naive_terms(*(model.projection_head(h).detach() for h in model.embed(pixel_values).features.unbind(1)))
    terms["variance"] /= 2 if halved else 1
    for name, value in terms.items():
        assert output.loss_terms[name].item() == pytest.approx(value, rel=1e-4), name
    expected = 25 * terms["invariance"] + 25 * terms["variance"] + 3 * terms["covariance"]
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_two_numerics_differ_by_a_factor_of_2_in_the_variance_term_alone():
    halved, whole = (build("vicreg", halve_variance=halve)(joint_batch()) for halve in (True, False))
    assert torch.equal(2 * halved.loss_terms["variance"], whole.loss_terms["variance"])
    assert torch.equal(halved.loss_terms["invariance"], whole.loss_terms["invariance"])
    assert torch.equal(halved.loss_terms["covariance"], whole.loss_terms["covariance"])
    torch.testing.assert_close(whole.loss - halved.loss, 25 * halved.loss_terms["variance"])


def compared(model, z, other):
    """The loss of projections as they are."""
    del model.projection_head[:]
    return model.compare(EncodedViews(features=torch.stack([z, other], dim=1)))


def test_all_images_at_one_point():
    """Only the variance term sees it: 1 − √ε a dimension."""
    output = compared(build("vicreg"), torch.full((6, 8), 3.0), torch.full((6, 8), 3.0))
    assert output.loss_terms["variance"].item() == pytest.approx(1 - 0.01)
    assert output.loss.item() == pytest.approx(25 * 0.99)
    assert output.diagnostics["projection_std"].item() == pytest.approx(0.01)


def test_all_dimensions_the_same():
    """Only the covariance term sees it: P − 1 pairs a dimension in each view."""
    column = torch.randn(64, 1)
    same = (column / column.std()).expand(64, 8)
    output = compared(build("vicreg"), same, same)
    assert output.loss_terms["variance"].item() == 0
    assert output.loss.item() == pytest.approx(2 * 7, rel=1e-4)


def test_identical_views_of_independent_dimensions_have_no_loss():
    orthogonal = torch.linalg.qr(torch.cat([torch.ones(64, 1), torch.randn(64, 8)], dim=1))[0][:, 1:]
    z = 8 * orthogonal  # mean 0, variance 64 / 63
    output = compared(build("vicreg"), z, z)
    assert output.loss.item() == pytest.approx(0, abs=1e-8)


def test_defaults_are_the_authors():
    config = VICRegConfig()
    assert config.projection_sizes == [2048, 8192, 8192, 8192]
    assert (config.invariance_weight, config.variance_weight, config.covariance_weight) == (25, 25, 1)
    assert config.halve_variance
    head = build("vicreg").projection_head
    assert [head[i].bias is None for i in (0, 3, 6)] == [False, False, True]


def test_two_processes_equal_one_on_the_joint_batch(two_view_ranks):
    assert_two_processes_equal_one(two_view_ranks, "vicreg")


@pytest.mark.parametrize("name", ["invariance_weight", "variance_weight", "covariance_weight"])
def test_negative_weights(name):
    with pytest.raises(InputError, match=f"{name} is -1"):
        VICRegConfig(**{name: -1})


def test_a_projector_without_layers():
    with pytest.raises(InputError, match="num_projection_layers is 0"):
        VICRegConfig(num_projection_layers=0)

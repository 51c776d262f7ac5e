import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.views import EncodedViews
from hf_ssl.modeling.vision.barlow_twins import BarlowTwinsConfig, BarlowTwinsForPreTraining
from tests.modeling.vision.two_view_ranks import assert_two_processes_equal_one, build, joint_batch


def eqs_1_and_2(z_a, z_b, weight):
    """Eqs. 1 and 2 of arXiv:2103.03230 with their sums over b, i and j, of projections with mean 0 along the batch."""
    z_a, z_b = z_a - z_a.mean(0), z_b - z_b.mean(0)
    invariance = redundancy = 0.0
    for i in range(z_a.shape[1]):
        for j in range(z_a.shape[1]):
            product = sum(z_a[b, i] * z_b[b, j] for b in range(len(z_a)))
            norms = sum(z_a[b, i] ** 2 for b in range(len(z_a))) * sum(z_b[b, j] ** 2 for b in range(len(z_b)))
            correlation = product / norms.sqrt()
            if i == j:
                invariance += (1 - correlation) ** 2
            else:
                redundancy += correlation**2
    return invariance, redundancy, invariance + weight * redundancy


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_loss_is_equation_1(scale):
    model, pixel_values = build("barlow_twins", scale_loss=scale), joint_batch()
    model.correlation_norm.eps = 1e-12  # the paper has none
    output = model(pixel_values)
    z = [model.projection_head(features) for features in model.embed(pixel_values).features.unbind(1)]
    invariance, redundancy, loss = eqs_1_and_2(*z, weight=0.3)
    torch.testing.assert_close(output.loss, scale * loss)
    torch.testing.assert_close(output.loss_terms["invariance"], invariance)
    torch.testing.assert_close(output.loss_terms["redundancy"], redundancy)


def features_only(model):
    """The same model, whose projections are the features themselves."""
    del model.projection_head[:]
    return model


def test_identical_white_views_have_no_loss():
    model = features_only(build("barlow_twins"))
    white = 16 * torch.linalg.qr(torch.randn(256, 9))[0][:, 1:]  # orthogonal columns of variance 1 ...
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / 256)).T  # ... and of mean 0
    output = model.compare(EncodedViews(features=torch.stack([white, white], dim=1)))
    assert output.loss.item() == pytest.approx(0, abs=1e-8)


def test_a_collapsed_view_costs_1_a_dimension_and_copied_dimensions_cost_lambda_a_pair():
    model = features_only(build("barlow_twins"))
    collapsed = model.compare(EncodedViews(features=torch.ones(6, 2, 8)))
    assert collapsed.loss_terms["invariance"].item() == 8
    assert collapsed.loss_terms["redundancy"].item() == 0
    one_dimension = torch.randn(32, 1, 1).expand(32, 2, 8)
    copied = model.compare(EncodedViews(features=one_dimension))
    assert copied.loss_terms["invariance"].item() == pytest.approx(0, abs=1e-6)
    assert copied.loss.item() == pytest.approx(0.3 * 8 * 7, rel=1e-3)


def test_the_normalisation_is_a_module_of_the_model():
    model = build("barlow_twins")
    model(joint_batch())
    assert model.correlation_norm.num_batches_tracked.item() == 2  # one view at a time
    assert not list(model.correlation_norm.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_correlations_are_fp32_of_a_model_in_half_precision(tmp_path, training):
    build("barlow_twins").save_pretrained(tmp_path)
    model = BarlowTwinsForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16).train(training)
    assert model.projection_head[0].weight.dtype == torch.bfloat16
    output = model(joint_batch().bfloat16())
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()


def test_defaults_are_the_authors():
    config = BarlowTwinsConfig()
    assert config.projection_sizes == [2048, 8192, 8192, 8192]
    assert config.redundancy_weight == 0.0051
    assert config.scale_loss == 1
    assert not any(name.endswith("0.bias") for name, _ in build("barlow_twins").projection_head.named_parameters())
    assert build("barlow_twins").projection_head[-1].bias is None


def test_two_processes_equal_one_on_the_joint_batch(two_view_ranks):
    assert_two_processes_equal_one(two_view_ranks, "barlow_twins")
    first, second = (rank["barlow_twins"]["resnet"]["loss"] for rank in two_view_ranks)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_projection_layers": 0}, "num_projection_layers is 0"),
        ({"redundancy_weight": -1}, "redundancy_weight is -1"),
        ({"scale_loss": 0}, "scale_loss is 0"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        BarlowTwinsConfig(**fields)

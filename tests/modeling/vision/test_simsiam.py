import pytest
import torch
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.views import EncodedViews
from hf_ssl.modeling.vision.simsiam import SimSiamConfig
from tests.modeling.vision.two_view_ranks import assert_two_processes_equal_one, build, joint_batch


def projections_and_predictions(model, pixel_values):
    z = [
        model.projection_head(model.encoder(pixel_values=view).pooler_output.flatten(1))
        for view in pixel_values.unbind(1)
    ]
    return z, [model.prediction_head(rows) for rows in z]


def eq_4(z, p):
    """Eqs. 1 and 4 of arXiv:2011.10566, image by image."""

    def distance(p_i, z_i):
        return -(p_i / p_i.norm()) @ (z_i / z_i.norm())

    losses = [distance(p_1, z_2) / 2 + distance(p_2, z_1) / 2 for z_1, z_2, p_1, p_2 in zip(*z, *p, strict=True)]
    return sum(losses) / len(losses)


def test_loss_is_equation_4():
    model, pixel_values = build("simsiam"), joint_batch()
    loss = model(pixel_values).loss
    torch.testing.assert_close(loss, eq_4(*projections_and_predictions(model, pixel_values)))
    assert -1 < loss.item() < 1


def test_the_gradient_stops_at_the_targets():
    model, pixel_values = build("simsiam"), joint_batch()
    model(pixel_values).loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    for stopped in (True, False):
        model.zero_grad()
        z, p = projections_and_predictions(model, pixel_values)
        eq_4([rows.detach() if stopped else rows for rows in z], p).backward()
        theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
        error = (torch.cat([gradient.flatten() for gradient in ours.values()]) - theirs).norm() / theirs.norm()
        assert (error < 1e-5) == stopped


def test_agreement_is_minus_one_and_seen_as_a_collapse_where_all_images_agree():
    """Constant features: every projection is what the norm makes of it, its shift, which a head of one layer lacks."""
    model = build("simsiam", num_projection_layers=1, projection_hidden_size=None)
    output = model.compare(EncodedViews(features=torch.ones(6, 2, 16)))
    assert output.diagnostics["projection_spread"].item() == 0


def test_projection_spread_of_spread_directions():
    """Near 1 (section 4.1): the last norm makes the projections of random features a cloud around 0."""
    model = build("simsiam", projection_size=64, projection_hidden_size=64)
    output = model.compare(EncodedViews(features=torch.randn(512, 2, 16)))
    assert output.diagnostics["projection_spread"].item() == pytest.approx(1, rel=0.05)


def test_heads_are_the_authors():
    config = SimSiamConfig()
    assert config.projection_sizes == [2048, 2048, 2048, 2048]
    assert config.prediction_hidden_size == 512
    model = build("simsiam")
    *_, last, norm = model.projection_head
    assert last.bias is None
    assert (norm.weight, norm.bias) == (None, None)
    first, hidden_norm, relu, last = model.prediction_head
    assert first.bias is None
    assert isinstance(hidden_norm, nn.BatchNorm1d)
    assert isinstance(relu, nn.ReLU)
    assert last.bias is not None
    assert sum(isinstance(layer, nn.Linear) for layer in model.projection_head) == 3


def test_two_processes_equal_one_on_the_joint_batch(two_view_ranks):
    assert_two_processes_equal_one(two_view_ranks, "simsiam")


def test_a_projector_without_layers():
    with pytest.raises(InputError, match="num_projection_layers is 0"):
        SimSiamConfig(num_projection_layers=0)

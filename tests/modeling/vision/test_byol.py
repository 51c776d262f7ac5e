import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.views import EncodedViews
from hf_ssl.modeling.vision.byol import BYOLConfig, BYOLForPreTraining
from tests.modeling.vision.two_view_ranks import assert_two_processes_equal_one, build, joint_batch


def unit(vector):
    return vector / vector.norm()


def eq_2(model, pixel_values):
    """Eq. 2 of arXiv:2006.07733 and its mirror image, view by view and image by image."""
    teacher, predictions, targets = model.teacher, [], []
    for view in pixel_values.unbind(1):
        y = model.encoder(pixel_values=view).last_hidden_state.flatten(2).mean(2)
        predictions.append(model.prediction_head(model.projection_head(y)))
        targets.append(
            teacher.projection_head(teacher.encoder(pixel_values=view).last_hidden_state.flatten(2).mean(2))
        )
    total = 0.0
    for q_1, q_2, z_1, z_2 in zip(*predictions, *targets, strict=True):
        total += (unit(q_1) - unit(z_2)).square().sum() + (unit(q_2) - unit(z_1)).square().sum()
    return total / len(pixel_values)


def test_loss_is_equation_2_in_both_directions():
    model, pixel_values = build("byol"), joint_batch()
    loss = model(pixel_values).loss
    torch.testing.assert_close(loss, eq_2(model, pixel_values))
    assert 0 < loss.item() < 8


def test_output():
    model, pixel_values = build("byol"), joint_batch()
    output = model(pixel_values)
    assert set(output.diagnostics) == {"prediction_spread", "projection_spread"}
    assert torch.equal(output.loss_terms["regression"], output.loss)


def test_one_direction_for_all_images_is_seen_as_a_collapse():
    model = build("byol")
    for head in (model.projection_head, model.prediction_head, model.teacher["projection_head"]):
        head[1].bias.data.normal_()  # what a batch norm makes of rows that are all the same
    collapsed = model.compare(EncodedViews(features=torch.ones(6, 2, 16), teacher_features=torch.ones(6, 2, 16)))
    spread = model(joint_batch()).diagnostics
    for name, value in collapsed.diagnostics.items():
        assert value.item() < 1e-5
        assert spread[name].item() > 0.02


def test_the_student_has_the_gradient_and_the_teacher_none():
    model = build("byol")
    model(joint_batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("teacher."), name


def test_the_teacher_is_encoder_and_projector_and_starts_as_a_copy():
    config = build("byol").config
    torch.manual_seed(1)
    model = BYOLForPreTraining(config)
    student = {name: p for name, p in model.named_parameters() if name.startswith(("encoder.", "projection_head."))}
    teacher = dict(model.teacher.named_parameters())
    assert teacher.keys() == student.keys()
    assert all(torch.equal(teacher[name], parameter) for name, parameter in student.items())


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_the_teacher_follows_by_equation_1(progress, decay):
    model = build("byol", ema_decay=0.9)
    model(joint_batch())  # moves the running statistics of both
    student = {name: value.clone() for name, value in model.student.state_dict().items()}
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    model.after_optimizer_step(progress)
    after, parameters = model.teacher.state_dict(), dict(model.teacher.named_parameters())
    for name, old in before.items():
        expected = decay * old + (1 - decay) * student[name] if name in parameters else old
        torch.testing.assert_close(after[name], expected)
    assert not torch.equal(before["projection_head.1.running_mean"], student["projection_head.1.running_mean"])


def test_the_teachers_batch_norms_see_the_batch_in_training_only():
    model, pixel_values = build("byol"), joint_batch()
    norms = [m for m in model.teacher.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(norm.training for norm in norms)
    model.eval()
    assert not any(norm.training for norm in norms)
    first = model(pixel_values)
    assert torch.equal(model(pixel_values[:2]).features, first.features[[0, 1, 6, 7]])


def test_a_published_encoder_is_the_teachers_too(tmp_path):
    build("byol", "vit").export_encoder(tmp_path)
    model = BYOLForPreTraining.from_encoder(tmp_path, projection_hidden_size=12, projection_size=8)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(model.teacher["encoder"].state_dict()[name], value), name


def test_heads_are_the_authors():
    config = BYOLConfig()
    assert (config.projection_hidden_size, config.prediction_hidden_size, config.projection_size) == (4096, 4096, 256)
    assert config.ema_decay == 0.996
    assert config.encoder_config.depths == (3, 4, 6, 3)
    model = build("byol")
    for head, width in ((model.projection_head, 16), (model.prediction_head, 8)):
        assert [tuple(p.shape) for p in head.parameters()] == [(12, width), (12,), (12,), (12,), (8, 12)]


def test_two_processes_equal_one_on_the_joint_batch(two_view_ranks):
    assert_two_processes_equal_one(two_view_ranks, "byol")


def test_values_that_do_not_fit():
    with pytest.raises(InputError, match=r"ema_decay is 1.1"):
        BYOLConfig(ema_decay=1.1)

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.dino import DINOConfig, DINOForPreTraining
from tests.modeling.vision.dino_ranks import CASES, SIZES, build, joint_batch, step
from tests.modeling.vision.test_simclr import TINY_ENCODERS
from tests.two_processes import run_two_processes


def unlike_its_student(model):
    """The teacher elsewhere, and a centre: as in the middle of a training."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.sharpen.centre.copy_(0.1 * torch.randn(SIZES["num_prototypes"]))
    return model


def head_of(head, vector):
    """The head of appendix C, layer by layer, for one image."""
    for layer in (0, 2):
        vector = F.gelu(head.mlp[layer].weight @ vector + head.mlp[layer].bias)
    z = head.mlp[4].weight @ vector + head.mlp[4].bias
    z = z / z.norm()
    return torch.stack([z @ (w / w.norm()) for w in head.last_layer.direction])


def algorithm_1(model, batch, pool):
    """The paper's algorithm 1 and Eq. 3, image by image and pair by pair; returns the loss and the centre's mean."""
    views = [batch["pixel_values"][:, 0], batch["pixel_values"][:, 1], *batch["local_pixel_values"].unbind(1)]
    total, num_terms, outputs = 0.0, 0, []
    for i in range(len(views[0])):
        student, teacher = [], []
        for number, view in enumerate(views):
            image = view[i][None]
            fine = {"interpolate_pos_encoding": True}
            student.append(head_of(model.projection_head, pool(model.encoder(image, **fine).last_hidden_state[0])))
            if number < 2:
                hidden = model.teacher["encoder"](image, **fine).last_hidden_state[0]
                teacher.append(head_of(model.teacher["projection_head"], pool(hidden)))
        for t, g_t in enumerate(teacher):
            p_t = torch.softmax((g_t - model.sharpen.centre) / 0.04, dim=0)
            for s, g_s in enumerate(student):
                if s != t:
                    total -= (p_t * torch.log(torch.softmax(g_s / 0.1, dim=0))).sum()
                    num_terms += 1
        outputs += teacher
    return total / num_terms, torch.stack(outputs).mean(0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_loss_and_centre_are_those_of_algorithm_1(pooling):
    model, batch = unlike_its_student(build(pooling=pooling)), joint_batch()
    pool = {"cls": lambda hidden: hidden[0], "mean": lambda hidden: hidden.mean(0)}[pooling]
    with torch.no_grad():
        expected, mean = algorithm_1(model, batch, pool)
        centre = model.sharpen.centre.clone()
    loss = model(**batch).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.sharpen.centre, centre)  # it moves after its use
    model.after_optimizer_step(0.5)
    torch.testing.assert_close(model.sharpen.centre, 0.9 * centre + 0.1 * mean)


def test_a_uniform_student_and_teacher_have_the_loss_ln_k():
    model = build(norm_last_layer=False)
    for head in (model.projection_head, model.teacher["projection_head"]):
        head.last_layer.length.data.zero_()
    output = model(**joint_batch())
    assert output.loss.item() == pytest.approx(math.log(SIZES["num_prototypes"]), rel=1e-6)
    assert output.diagnostics["kl_to_uniform"].item() == pytest.approx(0, abs=1e-6)


def test_global_views_alone():
    model, batch = unlike_its_student(build()), joint_batch()
    with torch.no_grad():
        views = batch["pixel_values"].unbind(1)
        g_s, g_t = (
            [head(encoder(view).last_hidden_state[:, 0]) for view in views]
            for encoder, head in (model.student.values(), model.teacher.values())
        )
        targets = [torch.softmax((g - model.sharpen.centre) / 0.04, dim=1) for g in g_t]
        expected = (F.cross_entropy(g_s[1] / 0.1, targets[0]) + F.cross_entropy(g_s[0] / 0.1, targets[1])) / 2
    torch.testing.assert_close(model(batch["pixel_values"]).loss, expected)


def test_output():
    model, batch = build(), joint_batch()
    output = model(**batch)
    assert output.features.shape == (8, 16)
    assert not output.features.requires_grad
    assert output.num_predictions["cross_view"].item() == 4
    torch.testing.assert_close(output.loss_terms["cross_view"], output.loss.detach())
    values = {name: value.item() for name, value in output.diagnostics.items()}
    assert values["teacher_entropy"] + values["kl_to_student"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert values["teacher_entropy"] + values["kl_to_uniform"] == pytest.approx(math.log(12), rel=1e-5)
    assert not any(value.requires_grad for value in output.diagnostics.values())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    pooling = "cls" if encoder in ("vit", "dinov2") else "mean"
    model = DINOForPreTraining(DINOConfig(encoder_config=TINY_ENCODERS[encoder], pooling=pooling, **SIZES))
    batch = joint_batch()
    if encoder == "swin":  # its windows of 4 do not fit in the 2 x 2 positions that its last stage has of 8 pixels
        del batch["local_pixel_values"]
    model(**batch).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    assert all(p.grad is None for p in model.teacher.parameters())
    model.eval().export_encoder(tmp_path)
    plain, images = AutoModel.from_pretrained(tmp_path).eval(), batch["pixel_values"][:, 0]
    with torch.no_grad():  # which attention kernel runs may depend on what gradients are recorded
        assert torch.equal(plain(images).last_hidden_state, model.teacher["encoder"](images).last_hidden_state)


def test_the_teacher_is_exported(tmp_path):
    model = unlike_its_student(build())
    model.export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).state_dict()
    teacher = model.teacher["encoder"].state_dict()
    assert all(torch.equal(plain[name], teacher[name]) for name in teacher)
    started = DINOForPreTraining.from_encoder(tmp_path, **SIZES)
    for part in (started.encoder, started.teacher["encoder"]):
        assert all(torch.equal(value, teacher[name]) for name, value in part.state_dict().items())


def test_the_teacher_follows_in_encoder_and_head():
    model = build()
    assert all(torch.equal(a, b) for a, b in zip(model.student.parameters(), model.teacher.parameters(), strict=True))
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for p in model.teacher.parameters()]
    model.after_optimizer_step(0.5)  # half way between .996 and 1
    for old, new, student in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.998 * old + 0.002 * student)
    model.after_optimizer_step(1.0)
    after = [p.clone() for p in model.teacher.parameters()]
    model.after_optimizer_step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(after, model.teacher.parameters(), strict=True))


def test_the_teacher_drops_nothing_and_uses_its_batchs_statistics_in_training():
    dropping = {**TINY_ENCODERS["dinov2"], "drop_path_rate": 0.5, "hidden_dropout_prob": 0.5, "num_hidden_layers": 2}
    model = DINOForPreTraining(DINOConfig(encoder_config=dropping, **SIZES)).train()
    pixel_values = joint_batch()["pixel_values"]
    first, second = (model.embed(pixel_values) for _ in range(2))
    assert torch.equal(first.teacher_features, second.teacher_features)
    assert not torch.equal(first.features, second.features)
    model = build("resnet")
    norms = [module for module in model.teacher.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(norm.training for norm in norms)
    encoded = model.embed(pixel_values)
    torch.testing.assert_close(encoded.teacher_features, encoded.features.detach())
    assert not any(module.training for module in model.eval().teacher.modules())


def test_in_evaluation_nothing_waits_for_the_centre():
    model = build().eval()
    model(**joint_batch())
    model.after_optimizer_step(0.0)
    assert not model.sharpen.centre.any()


def test_the_prototypes_are_frozen_at_first():
    model = build(freeze_last_layer_share=0.1, norm_last_layer=False)
    last_layer = model.projection_head.last_layer
    for progress, moves in ((0.0, False), (0.09, False), (0.1, True)):
        model(**joint_batch()).loss.backward()
        model.before_optimizer_step(progress)
        assert (last_layer.direction.grad is not None) == moves
        assert (last_layer.length.grad is not None) == moves
        assert model.projection_head.mlp[4].weight.grad is not None


def test_two_processes_with_two_micro_batches_equal_one_on_the_joint_batch(tmp_path):
    run_two_processes(Path(__file__).parent / "dino_ranks.py", tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, (make, batch, _) in CASES.items():
        joint = step(make(), batch())
        first, second = (rank[name] for rank in ranks)
        torch.testing.assert_close(first["loss"] + second["loss"], joint["loss"])
        gradient = torch.cat([g.flatten() for g in joint["gradients"].values()])
        for rank in (first, second):
            error = torch.cat([g.flatten() for g in rank["gradients"].values()]) - gradient
            assert error.norm() <= 1e-5 * gradient.norm()
            torch.testing.assert_close(rank["centres"], joint["centres"])
        assert joint["centres"].norm() > 0


def test_defaults_are_the_papers():
    config = DINOConfig()
    assert config.encoder_config.model_type == "vit"
    assert (config.num_prototypes, config.head_hidden_size, config.bottleneck_size) == (65536, 2048, 256)
    assert (config.student_temperature, config.teacher_temperature, config.final_teacher_temperature) == (
        0.1,
        0.04,
        0.07,
    )
    assert (config.centre_decay, config.ema_decay) == (0.9, 0.996)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"num_prototypes": 1}, "num_prototypes is 1"),
        ({"bottleneck_size": 0}, "bottleneck_size is 0"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0"),
        ({"student_temperature": -0.1}, "student_temperature is -0.1"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"freeze_last_layer_share": -1}, "freeze_last_layer_share is -1"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        DINOConfig(**fields)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(4, 3, 16, 16\)"):
        build()(joint_batch()["pixel_values"][:, 0])


def test_encoder_without_a_class_token():
    with pytest.raises(InputError, match="'resnet' has no class token"):
        DINOForPreTraining(DINOConfig(encoder_config=TINY_ENCODERS["resnet"], **SIZES))

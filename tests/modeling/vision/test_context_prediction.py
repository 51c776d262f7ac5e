import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.context_prediction import ContextPredictionConfig, ContextPredictionForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.context_prediction_ranks import ENCODERS, build, joint_batch, loss_and_gradients
from tests.modeling.vision.test_simclr import TINY_ENCODERS
from tests.two_processes import run_two_processes


def naive_patch(batch, image, number, config):
    """One patch as the paper treats it: cut, pixelated by no more than its own size, colours, mean and variance."""
    pixels = batch["pixel_values"][image]
    if "gray" in batch and batch["gray"][image]:
        pixels = (0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]).expand(3, -1, -1)
    top, left = batch["patch_corners"][image, number, 0].tolist()
    patch = pixels[:, top : top + config.patch_size, left : left + config.patch_size].clone()
    if config.colours == "project":
        a = torch.tensor([[-1.0, 2.0, -1.0]])
        patch = torch.einsum("dc,chw->dhw", torch.eye(3) - a.T @ a / (a @ a.T), patch)
    if config.colours == "drop":
        kept = int(batch["kept_channels"][image, number])
        left_over = patch[kept] - patch[kept].mean()
        patch = batch["channel_noise"][image] * left_over.std(correction=0) / 100
        patch[kept] = left_over
    return (patch - patch.mean()) / patch.std(correction=0)


@pytest.mark.parametrize("colours", ["drop", "project", "gray", "keep"])
def test_loss_is_the_papers(colours):
    model = build(colours=colours, pixelation_probability=0).eval()
    batch = joint_batch(model.config)
    if colours == "gray":
        assert set(batch["gray"].tolist()) == {True, False}
    f = [
        [
            model.encoder(pixel_values=naive_patch(batch, image, number, model.config)[None]).last_hidden_state.mean(1)
            for number in range(9)
        ]
        for image in range(4)
    ]
    total = 0.0
    for image in range(4):
        for label, number in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):  # from top left to bottom right, without the centre
            scores = model.head(torch.cat([f[image][4], f[image][number]], dim=1))[0].tolist()
            total -= math.log(math.exp(scores[label]) / sum(math.exp(score) for score in scores)) / 32
    assert model(**batch).loss.item() == pytest.approx(total, rel=1e-4)


def test_pixelated_patches():
    model = build(pixelation_probability=1.0, colours="keep").eval()
    batch = joint_batch(model.config)
    assert 10 <= batch["pixelated_sides"].min() < batch["pixelated_sides"].max() < 16
    blurred = model(**batch).loss
    batch["pixelated_sides"] = torch.full((4, 9), 16)
    sharp = model(**batch).loss
    assert abs(blurred - sharp) > 1e-5
    del batch["pixelated_sides"]
    torch.testing.assert_close(model(**batch).loss, sharp)


def test_a_third_of_the_patches_loses_detail_evenly_over_the_pixels_that_are_left():
    config = ContextPredictionConfig()
    generators = [item_generator(0, 0, index) for index in range(300)]
    pixel_values = torch.zeros(1, 1).expand(300, 3, 432, 432)
    config.colours = "keep"
    sides = ContextPredictionForPreTraining.draw_inputs(config, {"pixel_values": pixel_values}, generators)[
        "pixelated_sides"
    ]
    pixelated = sides[sides < 96].float()
    assert len(pixelated) / sides.numel() == pytest.approx(0.33, abs=0.03)
    assert pixelated.square().mean().item() == pytest.approx((10**2 + 96**2) / 2, rel=0.06)


def test_patches_of_one_image_are_drawn_apart_from_the_others():
    config = build().config
    whole = joint_batch(config)
    alone = ContextPredictionForPreTraining.draw_inputs(
        config, {"pixel_values": whole["pixel_values"][2:3]}, [item_generator(0, 0, 2)]
    )
    assert (
        alone.keys()
        == whole.keys()
        == {"pixel_values", "patch_corners", "kept_channels", "channel_noise"} | {"pixelated_sides"}
    )
    for name, value in alone.items():
        assert torch.equal(value, whole[name][2:3]), name


def test_output():
    model = build()
    output = model(**joint_batch(model.config), output_hidden_states=True)
    assert output.logits.shape == (32, 8)
    assert output.targets.tolist() == list(range(8)) * 4
    assert output.features.shape == (36, 16)
    assert output.hidden_states[0].shape[0] == 36  # one pass over all patches
    assert not output.logits.requires_grad
    assert output.num_predictions == {}
    torch.testing.assert_close(torch.nn.functional.cross_entropy(output.logits, output.targets), output.loss.detach())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = build(TINY_ENCODERS[encoder])
    model(**joint_batch(model.config)).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain, images = AutoModel.from_pretrained(tmp_path).eval(), torch.randn(2, 3, 16, 16)
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_positions_of_a_vit_are_interpolated_to_the_patches():
    model = build(patch_size=8, pixelation_probability=0)
    model(**joint_batch(model.config)).loss.backward()
    assert model.encoder.embeddings.position_embeddings.grad.abs().sum() > 0


def test_forward_never_waits_for_an_accelerator():
    model = build()
    batch = joint_batch(model.config)
    with NoWaiting():
        model(**batch).loss.backward()


def test_two_processes_equal_one_on_the_joint_batch(tmp_path):
    run_two_processes(Path(__file__).parent / "context_prediction_ranks.py", tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for encoder in ENCODERS:
        model = build(ENCODERS[encoder])
        joint = loss_and_gradients(model, joint_batch(model.config))
        first, second = (rank[encoder] for rank in ranks)
        torch.testing.assert_close((first["loss"] + second["loss"]) / 2, joint["loss"])
        gradient = torch.cat([g.flatten() for g in joint["gradients"].values()])
        for rank in (first, second):
            error = torch.cat([g.flatten() for g in rank["gradients"].values()]) - gradient
            assert error.norm() <= 1e-5 * gradient.norm()
        for name, buffer in joint["buffers"].items():
            torch.testing.assert_close(first["buffers"][name], buffer)
            torch.testing.assert_close(second["buffers"][name], buffer)


def test_defaults_are_the_papers():
    config = ContextPredictionConfig()
    assert config.encoder_config.model_type == "resnet"
    assert (config.patch_size, config.patch_jitter, config.colours) == (96, 14, "drop")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colours": "dropp"}, "did you mean 'drop'"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"patch_jitter": -1}, "patch_jitter is -1"),
        ({"patch_size": 10}, "pixelation_probability=0"),
        ({"gray_probability": 1.5}, "gray_probability is 1.5"),
        ({"head_dropout": -0.5}, "head_dropout is -0.5"),
        ({"head_hidden_size": 0}, "head_hidden_size is 0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        ContextPredictionConfig(**fields)


def test_an_image_that_is_too_small():
    with pytest.raises(InputError, match=r"raise data.image_size to 330"):
        ContextPredictionForPreTraining.draw_inputs(
            ContextPredictionConfig(), {"pixel_values": torch.zeros(1, 3, 255, 255)}, [item_generator(0, 0, 0)]
        )


def test_several_views():
    model = build()
    batch = joint_batch(model.config)
    with pytest.raises(InputError, match="one square image an item"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:, None]})

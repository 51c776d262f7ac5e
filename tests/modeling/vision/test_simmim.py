import pytest
import torch
from transformers import AutoModel, SwinConfig, SwinForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.simmim import SimMIMConfig, SimMIMForPreTraining, stride_of
from tests.modeling.no_waiting import NoWaiting
from tests.tiny_vision import NUM_ROWS, generators, images, vit

SIZES = vit().to_diff_dict() | {"image_size": 16, "patch_size": 4, "model_type": "vit"}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
TINY_ENCODERS = {
    "vit": SIZES,
    "vit_mae": SIZES | {"model_type": "vit_mae"},
    "deit": SIZES | {"model_type": "deit"},
    "dinov2": SIZES | {"model_type": "dinov2"},
    "dinov3_vit": SIZES | {"model_type": "dinov3_vit", "num_register_tokens": 2},
    "beit": SIZES | {"model_type": "beit", "use_shared_relative_position_bias": True},
    "data2vec-vision": SIZES | {"model_type": "data2vec-vision", "use_relative_position_bias": True},
    "ijepa": SIZES | {"model_type": "ijepa"},
    "swin": SWIN | {"model_type": "swin"},
    "swinv2": SWIN | {"model_type": "swinv2"},
}


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    return SimMIMForPreTraining(
        SimMIMConfig(encoder_config=TINY_ENCODERS[encoder], **{"mask_patch_size": 8, **fields})
    )


def drawn(model, side=16):
    return model.draw_inputs(model.config, {"pixel_values": images(3, side, side)}, generators())


@pytest.mark.parametrize("encoder", ["vit", "swin"])
def test_loss_is_equation_1(encoder):
    model = build(encoder).eval()
    batch = drawn(model)
    shown = {}
    model.head.register_forward_hook(lambda module, args, output: shown.update(predictions=output))
    with torch.no_grad():
        loss = model(**batch).loss
    stride = stride_of(model.encoder.config)
    patch, columns = model.encoder.config.patch_size, 16 // stride
    total, number = 0.0, 0
    for b in range(NUM_ROWS):
        for row in range(16):
            for column in range(16):
                if not batch["bool_masked_pos"][b, row // patch, column // patch]:
                    continue
                vector = shown["predictions"][b, (row // stride) * columns + column // stride]
                for channel in range(3):
                    y = vector[channel * stride**2 + (row % stride) * stride + column % stride]
                    total += abs(float(y - batch["pixel_values"][b, channel, row, column]))
                    number += 1
    assert loss.item() == pytest.approx(total / number, rel=1e-5)


@pytest.mark.parametrize(
    ("encoder", "config", "theirs"),
    [
        ("vit", ViTConfig(**SIZES | {"encoder_stride": 4}), ViTForMaskedImageModeling),
        ("swin", SwinConfig(**SWIN, encoder_stride=4), SwinForMaskedImageModeling),
    ],
)
def test_loss_and_gradient_are_those_of_transformers(encoder, config, theirs):
    ours, theirs = build(encoder).eval(), theirs(config).eval()
    state = {f"{encoder}.{name}": value for name, value in ours.encoder.state_dict().items()}
    state[f"{encoder}.embeddings.mask_token"] = ours.mask_token[None, None]
    state["decoder.0.weight"], state["decoder.0.bias"] = ours.head.weight[:, :, None, None], ours.head.bias
    theirs.load_state_dict(state)
    batch = drawn(ours)
    expected = theirs(batch["pixel_values"], bool_masked_pos=batch["bool_masked_pos"].flatten(1)).loss
    loss = ours(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    of_theirs = dict(theirs.named_parameters())
    torch.testing.assert_close(ours.mask_token.grad, of_theirs[f"{encoder}.embeddings.mask_token"].grad[0, 0])
    for name, parameter in ours.encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, of_theirs[f"{encoder}.{name}"].grad, msg=name)


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = build(encoder)
    batch = drawn(model)
    model(**batch).loss.backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    noise = {"noise": torch.arange(16).expand(NUM_ROWS, -1)} if encoder == "vit_mae" else {}
    expected = plain(batch["pixel_values"], **noise).last_hidden_state
    assert torch.equal(model.encoder(batch["pixel_values"]).last_hidden_state, expected)


@pytest.mark.parametrize(("encoder", "patches"), [("vit", 2), ("swin", 4)])
def test_masks_are_whole_squares(encoder, patches):
    model = build(encoder, mask_ratio=0.3)
    mask = drawn(model)["bool_masked_pos"]
    assert mask.shape == (NUM_ROWS, 2 * patches, 2 * patches)
    units = mask.unfold(1, patches, patches).unfold(2, patches, patches).flatten(3)
    assert torch.equal(units.all(dim=3), units.any(dim=3))
    assert (units.all(dim=3).sum(dim=(1, 2)) == 2).all()  # of 1.2, rounded up


def test_masked_pixels_are_not_seen():
    model = build("swin").eval()
    batch = drawn(model)
    pixels = batch["bool_masked_pos"].repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    others = torch.where(pixels, images(3, 16, 16, seed=1), batch["pixel_values"])
    first, second = model(**batch), model(**{**batch, "pixel_values": others})
    assert torch.equal(first.features, second.features)
    assert first.loss != second.loss


def test_images_of_another_size_than_the_encoders():
    assert torch.isfinite(build()(**drawn(build(), side=24)).loss)


def test_forward_never_waits():
    model = build()
    batch = drawn(model)
    with NoWaiting():
        model(**batch).loss.backward()


def test_output():
    model = build()
    batch = drawn(model)
    output = model(**batch)
    assert output.num_predictions["reconstruction"] == NUM_ROWS * 3 * 4  # 3 of 4 squares, each of 4 patches
    assert output.features.shape == (NUM_ROWS, 32)
    torch.testing.assert_close(output.loss_terms["reconstruction"], output.loss.detach())


def test_defaults_are_the_papers():
    config = SimMIMConfig()
    assert (config.mask_patch_size, config.mask_ratio) == (32, 0.6)
    assert stride_of(config.encoder_config) == 32
    batch = SimMIMForPreTraining.draw_inputs(config, {"pixel_values": torch.zeros(1, 3, 192, 192)}, generators(1))
    assert batch["bool_masked_pos"].shape == (1, 48, 48)
    assert batch["bool_masked_pos"].sum() == 22 * 64  # ⌈.6 · 36⌉ squares


@pytest.mark.parametrize(
    ("fields", "side", "message"),
    [
        ({"mask_ratio": 0}, 16, "mask_ratio is 0"),
        ({"mask_patch_size": 0}, 16, "mask_patch_size is 0"),
        ({"mask_patch_size": 6}, 16, "mask_patch_size is 6; .*patch_size, 4, and a divisor of the images' side, 16"),
        ({"mask_patch_size": 8}, 20, "divisor of the images' side, 20"),
    ],
)
def test_values_that_do_not_fit(fields, side, message):
    with pytest.raises(InputError, match=message):
        drawn(build(**fields), side)


def test_images_that_the_last_layer_does_not_divide():
    swin = SWIN | {"model_type": "swin", "depths": [1, 1, 1], "num_heads": [1, 2, 4], "patch_size": 4}
    config = SimMIMConfig(encoder_config=swin, mask_patch_size=4)
    with pytest.raises(InputError, match="a vector for each 16 x 16 pixels, into which images of 24"):
        SimMIMForPreTraining.draw_inputs(config, {"pixel_values": images(3, 24, 24)}, generators())


def test_two_views():
    with pytest.raises(InputError, match=r"\(8, 2, 3, 16, 16\)"):
        SimMIMForPreTraining.draw_inputs(build().config, {"pixel_values": images(2, 3, 16, 16)}, generators())

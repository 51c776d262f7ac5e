import math

import pytest
import torch
from transformers import AutoModel, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.patches import sincos_positions
from hf_ssl.modeling.vision.mae import MAEConfig, MAEForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.tiny_vision import NUM_ROWS, generators, images, vit

SIZES = vit().to_diff_dict() | {"image_size": 16, "patch_size": 4, "model_type": "vit"}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
TINY_ENCODERS = {
    "vit": SIZES,
    "vit_mae": SIZES | {"model_type": "vit_mae"},
    "deit": SIZES | {"model_type": "deit"},
    "dinov2": SIZES | {"model_type": "dinov2"},
    "dinov2_with_registers": SIZES | {"model_type": "dinov2_with_registers", "num_register_tokens": 2},
    "dinov3_vit": SIZES | {"model_type": "dinov3_vit", "num_register_tokens": 2},
    "beit": SIZES | {"model_type": "beit", "use_absolute_position_embeddings": True},
    "ijepa": SIZES | {"model_type": "ijepa"},
}


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    return MAEForPreTraining(MAEConfig(encoder_config=TINY_ENCODERS[encoder], **{**DECODER, **fields}))


def drawn(model, side=16, seed=0):
    return model.draw_inputs(model.config, {"pixel_values": images(3, side, side, seed=seed)}, generators())


def naive_loss(model, batch):
    """Section 3 of arXiv:2111.06377, image by image and patch by patch."""
    total, number = 0.0, 0
    for row, image in enumerate(batch["pixel_values"]):
        visible, masked = batch["visible_positions"][row], batch["masked_positions"][row]
        patches = [image[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] for r in range(4) for c in range(4)]
        embeddings, vit_ = model.encoder.embeddings, model.encoder
        tokens = [embeddings.cls_token[0, 0] + embeddings.position_embeddings[0, 0]]
        for i in visible.tolist():
            embedded = embeddings.patch_embeddings.projection(patches[i][None]).flatten()
            tokens.append(embedded + embeddings.position_embeddings[0, 1 + i])
        hidden = torch.stack(tokens)[None]
        for layer in vit_.layers:
            hidden = layer(hidden)
        hidden = vit_.layernorm(hidden)[0]
        decoder, positions = model.decoder, sincos_positions((4, 4), 16)
        sequence = [decoder.embed(hidden[0])]
        for i in range(16):  # in the order of the image
            seen = (visible == i).nonzero()
            token = decoder.embed(hidden[1 + int(seen)]) if len(seen) else decoder.mask_token
            sequence.append(token + positions[i])
        hidden = torch.stack(sequence)[None]
        for layer in decoder.layers:
            hidden = layer(hidden)
        predictions = decoder.predict(decoder.norm(hidden))[0, 1:]
        for i in masked.tolist():
            x = [float(patches[i][c, a, b]) for a in range(4) for b in range(4) for c in range(3)]
            if model.config.norm_pix_loss:
                mean = sum(x) / 48
                variance = sum((value - mean) ** 2 for value in x) / 47
                x = [(value - mean) / math.sqrt(variance + 1e-6) for value in x]
            total += sum((float(p) - value) ** 2 for p, value in zip(predictions[i], x, strict=True)) / 48
            number += 1
    return total / number


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_loss_is_that_of_section_3(norm_pix_loss):
    model = build(norm_pix_loss=norm_pix_loss).eval()
    batch = {name: value[:2] for name, value in drawn(model).items()}
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(naive_loss(model, batch), rel=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_loss_and_gradient_are_those_of_vit_mae_for_pretraining(norm_pix_loss):
    model = build("vit_mae", norm_pix_loss=norm_pix_loss).eval()
    config = ViTMAEConfig(**vit().to_diff_dict(), **DECODER, mask_ratio=0.75, norm_pix_loss=norm_pix_loss)
    theirs = ViTMAEForPreTraining(config).eval()
    theirs.decoder.layer_norm_eps = 1e-6
    ours_to_theirs = {"embed": "decoder_embed", "norm": "decoder_norm", "predict": "decoder_pred"}
    state = {f"vit.{name}": value for name, value in model.encoder.state_dict().items()}
    for name, value in model.decoder.state_dict().items():
        first, *rest = name.split(".")
        first = "decoder_layers" if first == "layers" else ours_to_theirs.get(first, first)
        state[".".join(["decoder", first, *rest])] = value if name != "mask_token" else value[None, None]
    positions = sincos_positions((4, 4), 16)
    state["decoder.decoder_pos_embed"] = torch.cat([torch.zeros(1, 16), positions])[None]
    theirs.load_state_dict(state)
    for module in theirs.decoder.modules():  # the authors' 1e-6; transformers' decoder has the encoder's
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6

    batch = drawn(model)
    noise = torch.ones(NUM_ROWS, 16).scatter(1, batch["visible_positions"], torch.arange(4.0).expand(NUM_ROWS, -1) / 8)
    expected = theirs(batch["pixel_values"], noise=noise)
    output = model(**batch)
    torch.testing.assert_close(output.loss, expected.loss)
    output.loss.backward()
    expected.loss.backward()
    torch.testing.assert_close(
        model.encoder.embeddings.patch_embeddings.projection.weight.grad,
        theirs.vit.embeddings.patch_embeddings.projection.weight.grad,
    )
    torch.testing.assert_close(model.decoder.mask_token.grad, theirs.decoder.mask_token.grad.flatten())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = build(encoder)
    batch = drawn(model)
    model(**batch).loss.backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    noise = {"noise": torch.arange(16).expand(NUM_ROWS, -1)} if encoder == "vit_mae" else {}
    expected = plain(batch["pixel_values"], **noise).last_hidden_state
    assert torch.equal(model.encoder(batch["pixel_values"]).last_hidden_state, expected)


def test_the_encoder_never_sees_the_masked_patches():
    model = build().eval()
    batch = drawn(model)
    hidden = batch["masked_positions"]
    pixels = torch.zeros(NUM_ROWS, 16).scatter(1, hidden, 1.0).view(NUM_ROWS, 1, 4, 4)
    pixels = pixels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    others = torch.where(pixels > 0, images(3, 16, 16, seed=1), batch["pixel_values"])
    first = model(**batch, output_hidden_states=True)
    second = model(**{**batch, "pixel_values": others}, output_hidden_states=True)
    assert torch.equal(first.features, second.features)
    assert first.hidden_states[0].shape == (NUM_ROWS, 1 + 4, 32)
    assert first.loss != second.loss


def test_the_order_of_the_positions_does_not_matter():
    model = build().eval()
    batch = drawn(model)
    shuffled = batch | {name: batch[name].flip(1) for name in ("visible_positions", "masked_positions")}
    torch.testing.assert_close(model(**shuffled).loss, model(**batch).loss)


def test_fixed_positions_survive_saving_and_loading(tmp_path):
    model = build("vit_mae")
    positions = model.encoder.embeddings.position_embeddings
    torch.testing.assert_close(positions[0, 1:], sincos_positions((4, 4), 32))
    assert not positions.requires_grad
    with torch.no_grad():
        positions.mul_(2)  # as those of a checkpoint may differ
    model.save_pretrained(tmp_path / "model")
    loaded = MAEForPreTraining.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.encoder.embeddings.position_embeddings, positions)
    model.export_encoder(tmp_path / "encoder")
    started = MAEForPreTraining.from_encoder(tmp_path / "encoder", **DECODER)
    assert torch.equal(started.encoder.embeddings.position_embeddings, positions)


def test_a_flat_patch_has_a_target_of_zeros():
    model = build()
    targets = model.targets(torch.ones(1, 3, 16, 16), (4, 4))
    assert torch.equal(targets, torch.zeros(1, 16, 48))


def test_draw():
    model = build(mask_ratio=0.7)
    batch = drawn(model)
    assert batch["visible_positions"].shape == (NUM_ROWS, 4)  # of 4.8, the fraction is cut
    assert batch["masked_positions"].shape == (NUM_ROWS, 12)
    assert len({tuple(row) for row in batch["visible_positions"].tolist()}) > 1
    assert model.count_predictions(batch)["reconstruction"] == NUM_ROWS * 12


def test_images_of_another_size_than_the_encoders():
    model = build()
    batch = drawn(model, side=24)
    assert batch["masked_positions"].shape == (NUM_ROWS, 27)
    assert torch.isfinite(model(**batch).loss)


def test_forward_never_waits():
    model = build()
    batch = drawn(model)
    with NoWaiting():
        model(**batch).loss.backward()


def test_output():
    model = build()
    output = model(**drawn(model))
    assert output.features.shape == (NUM_ROWS, 32)
    assert output.num_predictions["reconstruction"] == NUM_ROWS * 12
    assert output.diagnostics["prediction_std"] > 0
    torch.testing.assert_close(output.loss_terms["reconstruction"], output.loss.detach())


def test_defaults_are_the_papers():
    config = MAEConfig()
    assert isinstance(config.encoder_config, ViTConfig)
    assert (config.encoder_config.hidden_size, config.encoder_config.patch_size) == (768, 16)
    assert (config.mask_ratio, config.norm_pix_loss) == (0.75, True)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (512, 8)
    assert (config.decoder_num_attention_heads, config.decoder_intermediate_size) == (16, 2048)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers is 0"),
        ({"decoder_num_attention_heads": 0}, "decoder_num_attention_heads is 0"),
        ({"decoder_hidden_size": 0}, "decoder_hidden_size is 0"),
        ({"decoder_intermediate_size": 0}, "decoder_intermediate_size is 0"),
        ({"decoder_hidden_size": 24, "decoder_num_attention_heads": 5}, "decoder_hidden_size is 24"),
        ({"encoder_config": {"model_type": "swin"}}, "'swin' works on windows of the whole grid"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        MAEConfig(**fields)


def test_an_encoder_without_patches():
    with pytest.raises(InputError, match="'resnet' has no patches"):
        MAEForPreTraining(MAEConfig(encoder_config={"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [8, 8]}))


def test_two_views():
    with pytest.raises(InputError, match=r"\(8, 2, 3, 16, 16\)"):
        build().draw_inputs(build().config, {"pixel_values": images(2, 3, 16, 16)}, generators())


def test_nothing_visible():
    with pytest.raises(InputError, match="none of the 16 patches"):
        drawn(build(mask_ratio=0.95))

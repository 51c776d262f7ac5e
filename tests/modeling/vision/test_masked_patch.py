import math

import pytest
import torch
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.masked_patch import MaskedPatchConfig, MaskedPatchForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.tiny_vision import NUM_ROWS, generators, images, vit

SIZES = vit().to_diff_dict() | {"image_size": 16, "patch_size": 4, "model_type": "vit"}
TINY_ENCODERS = {
    "vit": SIZES,
    "vit_mae": SIZES | {"model_type": "vit_mae"},
    "deit": SIZES | {"model_type": "deit"},
    "dinov2": SIZES | {"model_type": "dinov2"},
    "dinov3_vit": SIZES | {"model_type": "dinov3_vit", "num_register_tokens": 2},
    "beit": SIZES | {"model_type": "beit", "use_relative_position_bias": True},
    "data2vec-vision": SIZES | {"model_type": "data2vec-vision"},
    "ijepa": SIZES | {"model_type": "ijepa"},
}


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    return MaskedPatchForPreTraining(MaskedPatchConfig(encoder_config=TINY_ENCODERS[encoder], **fields))


def drawn(model, side=16):
    return model.draw_inputs(model.config, {"pixel_values": 0.5 * images(3, side, side)}, generators())


def naive_colour(patch, mean, std):
    """Appendix B.1.2: the mean colour of a patch (3, p, p), 3 bits a channel."""
    code = 0
    for channel in range(3):
        colour = (
            sum(float(x) * std[channel] + mean[channel] for x in patch[channel].flatten()) / patch[channel].numel()
        )
        code = 8 * code + min(7, max(0, math.floor(8 * colour)))
    return code


def naive_loss(model, batch):
    """Appendix B.1.2 of arXiv:2010.11929, image by image and patch by patch."""
    total, number = 0.0, 0
    vit_, embeddings = model.encoder, model.encoder.embeddings
    for row, image in enumerate(batch["pixel_values"]):
        patches = [image[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] for r in range(4) for c in range(4)]
        embedded = [embeddings.patch_embeddings.projection(patch[None]).flatten() for patch in patches]
        tokens = [embeddings.cls_token[0, 0]]
        for i in range(16):
            source = int(batch["source_positions"][row, i])
            tokens.append(model.mask_token if batch["bool_masked_pos"][row, i] else embedded[source])
        hidden = torch.stack(tokens)[None] + embeddings.position_embeddings
        for layer in vit_.layers:
            hidden = layer(hidden)
        scores = model.head(vit_.layernorm(hidden))[0, 1:].log_softmax(dim=-1)
        for i in batch["predicted_positions"][row].tolist():
            total -= float(scores[i, naive_colour(patches[i], model.config.pixel_mean, model.config.pixel_scale)])
            number += 1
    return total / number


def test_loss_is_that_of_appendix_b_1_2():
    model = build().eval()
    batch = drawn(model)
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(naive_loss(model, batch), rel=1e-5)


def test_colours():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = build(pixel_mean=list(mean), pixel_scale=list(std))
    pixels = torch.rand(2, 3, 16, 16)
    pixels[0, :, :4, :4], pixels[0, :, :4, 4:8] = 0.0, 1.0
    normalised = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    colours = model.colours(normalised)
    assert colours[0, 0] == 0
    assert colours[0, 1] == 511
    for row in range(2):
        for i in range(1, 16):
            patch = normalised[row, :, 4 * (i // 4) : 4 * (i // 4) + 4, 4 * (i % 4) : 4 * (i % 4) + 4]
            assert colours[row, i] == naive_colour(patch, mean, std)


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


def test_what_a_token_stands_for_is_not_seen():
    model = build(mask_token_share=1.0, random_patch_share=0.0).eval()
    batch = drawn(model)
    pixels = batch["bool_masked_pos"].view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    others = torch.where(pixels, images(3, 16, 16, seed=1), batch["pixel_values"])
    first, second = model(**batch), model(**{**batch, "pixel_values": others})
    assert torch.equal(first.logits, second.logits)
    assert first.loss != second.loss


def test_forward_never_waits():
    model = build()
    batch = drawn(model)
    with NoWaiting():
        model(**batch).loss.backward()


def test_output():
    model = build()
    output = model(**drawn(model))
    assert output.logits.shape == (NUM_ROWS * 8, 512)
    assert output.targets.shape == (NUM_ROWS * 8,)
    assert output.features.shape == (NUM_ROWS, 32)
    assert output.num_predictions["colour"] == NUM_ROWS * 8
    torch.testing.assert_close(torch.nn.functional.cross_entropy(output.logits, output.targets), output.loss.detach())


def test_images_of_another_size_than_the_encoders():
    assert torch.isfinite(build()(**drawn(build(), side=24)).loss)


def test_defaults_are_the_papers():
    config = MaskedPatchConfig()
    assert (config.encoder_config.model_type, config.encoder_config.patch_size) == ("vit", 16)
    assert (config.corruption_ratio, config.mask_token_share, config.random_patch_share) == (0.5, 0.8, 0.1)
    assert config.num_colours == 512


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corruption_ratio": 0.0}, "corruption_ratio is 0.0"),
        ({"mask_token_share": 0.8, "random_patch_share": 0.3}, "whose sum is at most 1"),
        ({"bits_per_channel": 9}, "bits_per_channel is 9"),
        ({"pixel_scale": [0.5, 0.5, 0.0]}, r"pixel_scale \[0.5, 0.5, 0.0\]"),
        ({"pixel_mean": [0.5]}, r"pixel_mean is \[0.5\]"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        MaskedPatchConfig(**fields)


def test_an_encoder_that_merges_patches():
    swin = {"model_type": "swin", "depths": [1, 1], "num_heads": [1, 1], "embed_dim": 8}
    with pytest.raises(InputError, match="'swin' has no patches that can be masked one by one"):
        MaskedPatchForPreTraining(MaskedPatchConfig(encoder_config=swin))


def test_two_views():
    with pytest.raises(InputError, match=r"\(8, 2, 3, 16, 16\)"):
        MaskedPatchForPreTraining.draw_inputs(build().config, {"pixel_values": images(2, 3, 16, 16)}, generators())

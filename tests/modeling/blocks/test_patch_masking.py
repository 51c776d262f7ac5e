import copy

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    SwinConfig,
    SwinForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
)
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.patch_masking import (
    changed_patches,
    masked_patches,
    num_prefix_tokens,
    patch_dim,
    patch_grid,
    ready_patch_encoder,
    visible_patches,
)
from hf_ssl.modeling.blocks.pretrained import build_encoder

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
REGISTERS = {"num_register_tokens": 3}
STILL = {"pos_embed_rescale": None}  # DINOv3 else draws its angles in training mode
ENCODERS = {
    "vit": SIZES,
    "deit": SIZES,
    "dinov2": SIZES,
    "dinov2_with_registers": SIZES | REGISTERS,
    "dinov3_vit": SIZES | REGISTERS | STILL,
    "beit": SIZES | {"use_absolute_position_embeddings": True},
    "data2vec-vision": SIZES | {"use_absolute_position_embeddings": True},
    "vit_mae": SIZES | {"mask_ratio": 0.0},
    "vit_msn": SIZES,
    "ijepa": SIZES,
}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
NUM_PREFIX = {"deit": 2, "dinov2_with_registers": 4, "dinov3_vit": 4, "ijepa": 0}


def build(name):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(name, **ENCODERS[name])).eval()
    with torch.no_grad():  # positions and tokens that start at 0 would hide what is wrong
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ready_patch_encoder(encoder, "This")
    return encoder


def images(seed=0, side=16):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(seed))


def mask(num_patches=16, seed=0):
    return torch.rand(3, num_patches, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("name", ENCODERS)
def test_a_masked_patch_is_not_seen(name):
    encoder, where, token = build(name), mask(), torch.randn(16)
    pixels = where.view(3, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    others = torch.where(pixels, images(1), images(0))
    with torch.no_grad(), masked_patches(encoder, where, token):
        first, second = (encoder(x).last_hidden_state for x in (images(0), others))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(encoder(images(0)).last_hidden_state, encoder(others).last_hidden_state)
    with torch.no_grad(), masked_patches(encoder, where, 2 * token):
        assert not torch.allclose(encoder(images(0)).last_hidden_state, first)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "beit", "ijepa"])
def test_masked_patches_are_those_of_bool_masked_pos(name):
    encoder, where = build(name), mask()
    own = torch.nn.Parameter(
        torch.randn(1, 1, 16) if name not in ("dinov2", "dinov2_with_registers") else torch.randn(1, 16)
    )
    encoder.embeddings.mask_token = own
    with masked_patches(encoder, where, own.flatten()):
        ours = encoder(images()).last_hidden_state
    torch.testing.assert_close(ours, encoder(images(), bool_masked_pos=where).last_hidden_state)


def test_as_in_vit_for_masked_image_modeling():
    torch.manual_seed(0)
    theirs = ViTForMaskedImageModeling(ViTConfig(**SIZES, encoder_stride=4)).eval()
    token = theirs.vit.embeddings.mask_token
    torch.nn.init.normal_(token)
    expected = theirs(images(), bool_masked_pos=mask()).reconstruction
    with masked_patches(theirs.vit, mask(), token):
        torch.testing.assert_close(theirs(images()).reconstruction, expected)


@pytest.mark.parametrize("absolute", [False, True])
def test_as_in_swin_for_masked_image_modeling(absolute):
    torch.manual_seed(0)
    theirs = SwinForMaskedImageModeling(SwinConfig(**SWIN, use_absolute_embeddings=absolute, encoder_stride=4)).eval()
    token = theirs.swin.embeddings.mask_token
    torch.nn.init.normal_(token)
    expected = theirs(images(), bool_masked_pos=mask(64)).reconstruction
    with masked_patches(theirs.swin, mask(64), token):
        torch.testing.assert_close(theirs(images()).reconstruction, expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_visible_patches_are_those_of_a_sequence_that_attention_masks_elsewhere(name):
    """Without the other patches is the same as with them, but attended by nobody."""
    encoder = build(name)
    keep = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i))[:6] for i in range(3)])
    with torch.no_grad():
        with visible_patches(encoder, keep):
            visible = encoder(images()).last_hidden_state
        num_prefix = num_prefix_tokens(encoder)
        assert visible.shape == (3, num_prefix + 6, 16)
        seen = torch.zeros(3, num_prefix + 16, dtype=torch.bool)
        seen[:, :num_prefix] = True
        seen.scatter_(1, keep + num_prefix, True)
        expected = attended(encoder, seen)
    torch.testing.assert_close(visible[:, :num_prefix], expected[:, :num_prefix])
    for row in range(3):
        torch.testing.assert_close(visible[row, num_prefix:], expected[row, num_prefix + keep[row]])


def attended(encoder, seen):
    """What the encoder gives when the keys outside `seen` (N, T) are hidden from every softmax."""
    softmax_input = torch.where(seen, 0.0, -torch.inf)[:, None, None]
    plain = torch.nn.functional.scaled_dot_product_attention

    def hiding(query, key, value, attn_mask=None, **kwargs):
        assert attn_mask is None
        return plain(query, key, value, attn_mask=softmax_input, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = hiding
    try:
        return encoder(images()).last_hidden_state
    finally:
        torch.nn.functional.scaled_dot_product_attention = plain


def test_a_fresh_vit_mae_has_positions():
    torch.manual_seed(0)
    encoder = build_encoder(AutoConfig.for_model("vit_mae", **ENCODERS["vit_mae"]), with_pooler=False)
    row_first = build_2d_sinusoidal_position_embedding(4, 4, 16, cls_token=True)
    expected = torch.cat(row_first.chunk(2, dim=1)[::-1], dim=1)  # the column first, as published weights have it
    torch.testing.assert_close(encoder.embeddings.position_embeddings[0], expected)


def test_as_in_vit_mae():
    torch.manual_seed(0)
    sizes = {**SIZES, "decoder_hidden_size": 8, "decoder_num_attention_heads": 1}
    theirs = build_encoder(ViTMAEConfig(**sizes, mask_ratio=0.75), with_pooler=False).eval()
    noise = torch.rand(3, 16)
    ours = copy.deepcopy(theirs)
    ours.config.mask_ratio = 0.0
    ready_patch_encoder(ours, "This")
    expected = theirs(images(), noise=noise).last_hidden_state
    with visible_patches(ours, noise.argsort(dim=1)[:, :4]):
        torch.testing.assert_close(ours(images()).last_hidden_state, expected)


def test_a_vit_mae_keeps_the_order_of_its_patches():
    encoder = build("vit_mae")
    moved = images().roll(4, dims=-1)
    positions = encoder.embeddings.position_embeddings
    torch.nn.init.zeros_(positions)
    first, second = encoder(images()).last_hidden_state, encoder(moved).last_hidden_state
    torch.testing.assert_close(first[:, 1:].unflatten(1, (4, 4)).roll(1, dims=2), second[:, 1:].unflatten(1, (4, 4)))
    assert copy.deepcopy(encoder)(images()).last_hidden_state.equal(first)


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3_vit", "ijepa"])
def test_images_of_another_size(name):
    encoder = build(name)
    kwargs = {"interpolate_pos_encoding": True} if name in ("vit", "ijepa") else {}
    keep = torch.arange(36).flip(0)[None].expand(3, -1)
    whole = encoder(images(side=24), **kwargs).last_hidden_state
    with (
        visible_patches(encoder, keep),
        masked_patches(encoder, torch.zeros(3, 36, dtype=torch.bool), torch.zeros(16)),
    ):
        visible = encoder(images(side=24), **kwargs).last_hidden_state
    first = num_prefix_tokens(encoder)
    torch.testing.assert_close(visible[:, first:], whole[:, first:].flip(1), atol=1e-5, rtol=1e-4)


def test_nothing_stays_behind():
    encoder = build("dinov3_vit")
    before = encoder(images()).last_hidden_state
    with (
        visible_patches(encoder, torch.zeros(3, 2, dtype=torch.long)),
        masked_patches(encoder, mask(), torch.ones(16)),
    ):
        encoder(images())
    assert encoder(images()).last_hidden_state.equal(before)


def test_the_gradient_reaches_the_token_and_the_visible_patches_only():
    encoder, token = build("vit"), torch.zeros(16, requires_grad=True)
    x = images().requires_grad_()
    with masked_patches(encoder, mask(), token):
        encoder(x).last_hidden_state.square().sum().backward()
    assert token.grad.norm() > 0
    of_patches = x.grad.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum(dim=(1, 4, 5)).flatten(1)
    assert torch.equal(of_patches == 0, mask())


def test_changed_patches():
    encoder = build("vit")
    with changed_patches(encoder, lambda patches: patches.flip(0)):
        flipped = encoder(images()).last_hidden_state
    torch.testing.assert_close(flipped, encoder(images().flip(0)).last_hidden_state)


@pytest.mark.parametrize("name", ENCODERS)
def test_sizes(name):
    encoder = build(name)
    num_prefix = num_prefix_tokens(encoder)
    assert num_prefix == NUM_PREFIX.get(name, 1)
    assert patch_grid(encoder.config) == (4, 4)
    assert patch_grid(encoder.config, (8, 24)) == (2, 6)
    assert encoder(images()).last_hidden_state.shape[1] == num_prefix + 16
    assert patch_dim(encoder.config) == 16


def test_sizes_of_swin():
    config = AutoConfig.for_model("swin", **SWIN)
    assert patch_grid(config) == (8, 8)
    assert patch_dim(config) == 8
    assert num_prefix_tokens(AutoModel.from_config(config)) == 0


def test_images_that_do_not_divide_into_patches():
    with pytest.raises(InputError, match="16 x 18 pixels does not divide into patches of 4 x 4"):
        patch_grid(ViTConfig(**SIZES), (16, 18))


def test_a_mask_of_another_size():
    encoder = build("vit")
    with masked_patches(encoder, mask(9), torch.zeros(16)), pytest.raises(InputError, match=r"\(3, 9\).*\(3, 16\)"):
        encoder(images())


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet", {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}),
        ("convnext", {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2}),
        ("swin", SWIN),
        ("yolos", SIZES | {"image_size": [16, 16]}),
    ],
)
def test_encoders_without_patches_to_mask(name, fields):
    encoder = AutoModel.from_config(AutoConfig.for_model(name, **fields))
    with pytest.raises(InputError, match=f"'{name}' has no patches .*; This needs another"):
        ready_patch_encoder(encoder, "This")


def test_an_objective_may_take_an_encoder_that_merges_patches():
    encoder = AutoModel.from_config(AutoConfig.for_model("swin", **SWIN))
    ready_patch_encoder(encoder, "This", hierarchical=True)


def test_an_encoder_of_text():
    encoder = AutoModel.from_config(
        AutoConfig.for_model("bert", hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(InputError, match="'bert' reads input_ids"):
        ready_patch_encoder(encoder, "This")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("swin", SWIN, "windows of the whole grid"),
        ("beit", SIZES | {"use_relative_position_bias": True}, "relative to the whole grid"),
        ("data2vec-vision", SIZES | {"use_shared_relative_position_bias": True}, "relative to the whole grid"),
    ],
)
def test_encoders_that_need_the_whole_grid(name, fields, message):
    encoder = AutoModel.from_config(AutoConfig.for_model(name, **fields))
    with pytest.raises(InputError, match=message), visible_patches(encoder, torch.zeros(3, 2, dtype=torch.long)):
        pass

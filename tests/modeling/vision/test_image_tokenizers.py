import pytest
import torch
from transformers import AutoConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.image_tokenizers import tokenizer_class, tokenizer_stride, tokens_of

VQ = {"embed_dim": 4, "num_embeddings": 11, "latent_channels": 32, "base_channels": 32, "num_res_blocks": 1}
TOKENIZERS = {
    "patch-codebook": ({"patch_size": 2, "num_embeddings": 11}, 2),
    "chameleon_vqgan": ({**VQ, "channel_multiplier": [1, 1, 1], "resolution": 16}, 4),
    "janus_vqgan": ({**VQ, "channel_multiplier": [1, 1], "num_patches": 4}, 2),
}


def build(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **TOKENIZERS[name][0])
    return tokenizer_class(config)(config).eval()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_one_token_a_patch_whatever_the_size_of_the_images(name):
    tokenizer, (_, stride) = build(name), TOKENIZERS[name]
    assert tokenizer_stride(tokenizer.config) == stride
    for side in (4 * stride, 32):
        tokens = tokens_of(tokenizer, torch.rand(2, 3, side, side), (4, 4))
        assert tokens.shape == (2, 16)
        assert tokens.dtype == torch.int64
        assert tokens.min() >= 0
        assert tokens.max() < 11


@pytest.mark.parametrize("name", ["chameleon_vqgan", "janus_vqgan"])
def test_tokens_are_those_of_encode(name):
    tokenizer, side = build(name), 4 * TOKENIZERS[name][1]
    colours = torch.rand(2, 3, side, side)
    tokens = tokens_of(tokenizer, colours, (4, 4))
    one_by_one = [tokenizer.encode(2 * image[None] - 1).image_tokens.flatten() for image in colours]
    assert torch.equal(tokens, torch.stack(one_by_one))


def test_what_is_no_tokenizer():
    with pytest.raises(InputError, match="There is no image tokenizer"):
        tokenizer_class(AutoConfig.for_model("resnet"))

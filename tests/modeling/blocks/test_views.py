import pytest
import torch
from transformers import AutoModel, BertConfig, ResNetConfig, SwinConfig, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.views import (
    check_squares,
    check_views,
    encode_each_view,
    encode_views,
    ready_image_encoder,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ENCODERS = {
    "vit": ViTConfig(**SMALL, image_size=16, patch_size=4),
    "swin": SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
}


# Swin's windows do not fit into a feature map that is smaller than one.
@pytest.mark.parametrize(("name", "size"), [("vit", 16), ("vit", 8), ("swin", 16), ("resnet", 16), ("resnet", 8)])
def test_each_view_is_encoded_as_by_itself(name, size):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(ENCODERS[name]).eval()
    views = torch.randn(3, 2, 3, size, size)
    features = encode_views(encoder, views, "mean").features
    assert features.shape == (3, 2, 16)
    one = encode_views(encoder, views[1:2, 1:], "mean").features
    torch.testing.assert_close(features[1:2, 1:], one, rtol=1e-4, atol=1e-5)


def test_hidden_states_are_given_when_asked_for():
    encoder = AutoModel.from_config(ENCODERS["vit"])
    encoded = encode_views(encoder, torch.randn(3, 2, 3, 16, 16), "cls", output_hidden_states=True)
    assert len(encoded.hidden_states) == 2


def test_batch_norm_sees_one_view_at_a_time():
    torch.manual_seed(0)
    encoder = AutoModel.from_config(ENCODERS["resnet"]).train()
    views = torch.randn(3, 2, 3, 16, 16)
    encoded = encode_each_view(encoder, views, "mean", output_hidden_states=True)
    for view in range(2):
        alone = encode_views(encoder, views[:, view, None], "mean", output_hidden_states=True)
        torch.testing.assert_close(encoded.features[:, view], alone.features[:, 0])
        for joint, own in zip(encoded.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(joint.chunk(2)[view], own)
    assert not torch.allclose(encoded.features, encode_views(encoder, views, "mean").features)
    assert encoded.attentions is None


def test_without_batch_norm_one_pass_is_enough():
    encoder = AutoModel.from_config(ENCODERS["vit"])
    views = torch.randn(3, 2, 3, 16, 16)
    assert torch.equal(encode_each_view(encoder, views, "cls").features, encode_views(encoder, views, "cls").features)


def test_check_views():
    check_views(torch.zeros(2, 2, 3, 8, 8), 2, "SimCLR")
    for shape in ((2, 3, 8, 8), (2, 3, 3, 8, 8)):
        with pytest.raises(InputError, match="SimCLR takes .batch, 2 views"):
            check_views(torch.zeros(shape), 2, "SimCLR")


def test_check_squares():
    check_squares(torch.zeros(2, 3, 8, 8), "RotNet")
    for shape in ((2, 1, 3, 8, 8), (2, 3, 8, 9), (3, 8, 8)):
        with pytest.raises(InputError, match="RotNet takes one square image an item"):
            check_squares(torch.zeros(shape), "RotNet")


def test_encoders_of_other_things_are_refused():
    with pytest.raises(InputError, match="reads input_ids; BYOL needs an image encoder"):
        ready_image_encoder(AutoModel.from_config(BertConfig(**SMALL)), "BYOL")
    with pytest.raises(InputError, match="no class token"):
        ready_image_encoder(AutoModel.from_config(ENCODERS["resnet"]), "BYOL", pooling="cls")

"""Our encoders by the names that other tools read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.images.from_published import convert_image_backbone
from hf_ssl.hub.conversion.images.to_published import convert_to_names
from tests.hub.conversion.images.naive_resnet import ResNet, resnet
from tests.hub.conversion.images.naive_vit import ViT, vit
from tests.hub.conversion.images.published import moco, weights_of

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
VIT = ViTConfig(**TINY, image_size=16, patch_size=4, layer_norm_eps=1e-6)
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 2, 1, 1]}


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bottleneck", [True, False])
def test_resnet_there_and_back(bottleneck: bool, tmp_path: Path) -> None:
    weights = weights_of(resnet(bottleneck=bottleneck))
    torch.save(moco(weights), tmp_path / "model.pth")
    folder = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path
    back = torch.load(convert_to_names(folder, tmp_path / "back.pth", "torchvision").path, weights_only=True)
    assert back.keys() == weights.keys()
    assert all(torch.equal(weight, back[name]) for name, weight in weights.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_vit_there_and_back(qkv_bias: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: weight.to(dtype) for name, weight in weights_of(vit(qkv_bias=qkv_bias)).items()}
    torch.save(weights, tmp_path / "model.pth")
    folder = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path
    back = load_file(convert_to_names(folder, tmp_path / "new" / "back.safetensors", "timm").path)
    assert back.keys() == weights.keys()
    assert all(torch.equal(weight, back[name]) for name, weight in weights.items())
    assert {weight.dtype for weight in back.values()} == {dtype}


def test_own_vit_computes_the_same_by_timms_names(tmp_path: Path) -> None:
    ours = ViTModel(VIT).eval()
    ours.save_pretrained(tmp_path / "encoder")
    converted = convert_to_names(tmp_path / "encoder", tmp_path / "vit.pth", "timm")
    theirs = ViT(image_size=16, patch_size=4, dim=32, depth=2, num_heads=4).eval()
    theirs.load_state_dict(torch.load(converted.path, weights_only=True))
    with torch.no_grad():
        expected = ours(images(16)).last_hidden_state
        torch.testing.assert_close(theirs(images(16)), expected, rtol=1e-4, atol=1e-5)
    assert converted.left_out == ["pooler.dense.bias", "pooler.dense.weight"]
    assert converted.kind == (
        "the state dict of timm.models.VisionTransformer(img_size=16, patch_size=4, in_chans=3, embed_dim=32, "
        "depth=2, num_heads=4, mlp_ratio=3.0, qkv_bias=True, num_classes=0, "
        "norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-06))"
    )


def test_own_resnet_computes_the_same_by_torchvisions_names(tmp_path: Path) -> None:
    ours = ResNetModel(ResNetConfig(**RESNET)).eval()
    ours.save_pretrained(tmp_path / "encoder")
    converted = convert_to_names(tmp_path / "encoder", tmp_path / "resnet.pth", "torchvision")
    theirs = ResNet(8, (1, 2, 1, 1), bottleneck=True).eval()
    theirs.load_state_dict(torch.load(converted.path, weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(theirs(images(64)), ours(images(64)).last_hidden_state, rtol=1e-4, atol=1e-5)
    assert not converted.left_out


def test_settings_are_said_that_the_weights_do_not_say(tmp_path: Path) -> None:
    """The ε of transformers' default, say, which timm's default is not."""
    ViTModel(ViTConfig(**TINY, image_size=16, patch_size=4), add_pooling_layer=False).save_pretrained(tmp_path / "v")
    converted = convert_to_names(tmp_path / "v", tmp_path / "vit.pth", "timm")
    assert "eps=1e-12" in converted.kind
    assert not converted.left_out
    usual = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 1, 1])
    ResNetModel(usual).save_pretrained(tmp_path / "r")
    kind = convert_to_names(tmp_path / "r", tmp_path / "resnet.pth", "torchvision").kind
    assert "ResNet(BasicBlock, [1, 1, 1, 1])" in kind


def test_classifier_is_left_out(tmp_path: Path) -> None:
    ViTForImageClassification(VIT).save_pretrained(tmp_path / "classifier")
    converted = convert_to_names(tmp_path / "classifier", tmp_path / "vit.pth", "timm")
    assert converted.left_out == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        (lambda: ViTModel(VIT), "torchvision", "a model of the type 'vit', not 'resnet'"),
        (lambda: ResNetModel(ResNetConfig(**RESNET)), "timm", "a model of the type 'resnet', not 'vit'"),
        (lambda: SwinModel(SwinConfig(embed_dim=8, depths=[1], num_heads=[1])), "timm", "type 'swin', not 'vit'"),
        (
            lambda: ViTModel(ViTConfig(**TINY, hidden_act="relu")),
            "timm",
            "hidden_act = 'relu', where timm's has 'gelu'",
        ),
        (
            lambda: ResNetModel(ResNetConfig(**RESNET, downsample_in_bottleneck=True)),
            "torchvision",
            "downsample_in_bottleneck = True",
        ),
        (
            lambda: ResNetModel(ResNetConfig(**RESNET, downsample_in_first_stage=True)),
            "torchvision",
            "downsample_in_first_stage = True",
        ),
        (lambda: ResNetModel(ResNetConfig(**RESNET, hidden_act="gelu")), "torchvision", "hidden_act = 'gelu'"),
        (
            lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[32, 64], depths=[1, 1])),
            "torchvision",
            "has 2 stages, torchvision's has 4",
        ),
    ],
)
def test_others_are_refused(model: Any, to: Any, message: str, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match=message):
        convert_to_names(tmp_path / "encoder", tmp_path / "out.pth", to)
    assert not (tmp_path / "out.pth").exists()


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no checkpoint in"):
        convert_to_names(tmp_path, tmp_path / "out.pth", "timm")
    model = ViTModel(VIT)
    state = {name: weight for name, weight in model.state_dict().items() if name != "layernorm.bias"}
    model.save_pretrained(tmp_path / "encoder", state_dict=state)
    with pytest.raises(InputError, match=r"lacks layernorm\.bias; is it complete"):
        convert_to_names(tmp_path / "encoder", tmp_path / "out.pth", "timm")
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"cannot be loaded .* is it complete"):
        convert_to_names(tmp_path / "encoder", tmp_path / "out.pth", "timm")


def test_file_that_is_taken(tmp_path: Path) -> None:
    ViTModel(VIT).save_pretrained(tmp_path / "encoder")
    (tmp_path / "mine.pth").write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        convert_to_names(tmp_path / "encoder", tmp_path / "mine.pth", "timm")
    assert (tmp_path / "mine.pth").read_bytes() == b"mine"

"""At the sizes of the released checkpoints, without memory: every name has its counterpart, every shape fits."""

import pytest
import torch
from torch import nn

from hf_ssl.hub.conversion.images.resnet import resnet_config, resnet_names
from hf_ssl.hub.conversion.images.vit import join_qkv, vit_config, vit_names
from hf_ssl.modeling.blocks.pretrained import build_encoder
from tests.hub.conversion.images.naive_resnet import ResNet
from tests.hub.conversion.images.naive_vit import ViT


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depths", "bottleneck", "width", "parameters"),
    [
        # torchvision's documented counts, without the 1000-class layer.
        ((2, 2, 2, 2), False, 64, 11_689_512 - 513_000),
        ((3, 4, 6, 3), False, 64, 21_797_672 - 513_000),
        ((3, 4, 6, 3), True, 64, 25_557_032 - 2_049_000),
        ((3, 4, 23, 3), True, 64, 44_549_160 - 2_049_000),
        # SwAV's README: 94M.
        ((3, 4, 6, 3), True, 128, 93_907_072),
    ],
)
def test_resnets(depths: tuple[int, ...], bottleneck: bool, width: int, parameters: int) -> None:
    with torch.device("meta"):
        theirs = ResNet(width, depths, bottleneck=bottleneck)
        weights = theirs.state_dict()
        config = resnet_config(weights)
        ours = build_encoder(config, with_pooler=False)
    names = resnet_names(config)
    assert num_parameters(theirs) == num_parameters(ours) == parameters
    assert names.keys() == weights.keys()
    assert {names[name]: w.shape for name, w in weights.items()} == {n: w.shape for n, w in ours.state_dict().items()}
    assert config.depths == list(depths)


@pytest.mark.parametrize(
    ("dim", "depth", "num_heads", "patch_size", "parameters"),
    [
        (384, 12, 6, 16, 21_665_664),  # DINO's ViT-S/16
        (384, 12, 6, 8, 21_670_272),  # DINO's ViT-S/8
        (768, 12, 12, 16, 85_798_656),  # DINO's and MAE's ViT-B/16
        (1024, 24, 16, 16, 303_301_632),  # MAE's and iBOT's ViT-L/16
        (1280, 32, 16, 14, 630_764_800),  # MAE's ViT-H/14
    ],
)
def test_vits(dim: int, depth: int, num_heads: int, patch_size: int, parameters: int) -> None:
    with torch.device("meta"):
        theirs = ViT(image_size=224, patch_size=patch_size, dim=dim, depth=depth, num_heads=num_heads, mlp_ratio=4)
        weights = theirs.state_dict()
        config = vit_config(weights, num_heads)
        ours = build_encoder(config, with_pooler=False)
        here = join_qkv(ours.state_dict())
    names = vit_names(weights)
    assert num_parameters(theirs) == num_parameters(ours) == parameters
    assert names.keys() == weights.keys()
    assert {names[name]: w.shape for name, w in weights.items()} == {name: w.shape for name, w in here.items()}
    assert (config.image_size, config.patch_size, config.intermediate_size) == (224, patch_size, 4 * dim)

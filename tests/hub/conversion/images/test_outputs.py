"""Every source's file becomes an encoder that computes what the authors' backbone does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ViTModel

from hf_ssl.data.images import image_processor, normalisation
from hf_ssl.evaluation.encoders import load_encoder
from hf_ssl.hub.conversion.images.from_published import convert_image_backbone
from hf_ssl.hub.conversion.images.reading import read_state, recognise
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining
from tests.hub.conversion.images.naive_resnet import resnet
from tests.hub.conversion.images.naive_vit import vit
from tests.hub.conversion.images.published import (
    RESNETS,
    VITS,
    dino,
    lightly_vit,
    lightning,
    mae,
    moco,
    moco_v3,
    save_resnet,
    save_vit,
    solo_learn,
    under,
    weights_of,
)


def images(size: int, batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same_resnet(folder: Path, model: nn.Module) -> None:
    with torch.no_grad():
        found = AutoModel.from_pretrained(folder).eval()(images(75)).last_hidden_state
        expected = model(images(75))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def assert_same_vit(folder: Path, model: nn.Module, size: int = 16) -> None:
    with torch.no_grad():
        found = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()(images(size)).last_hidden_state
        expected = model(images(size))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_of_every_source(name: str, tmp_path: Path) -> None:
    origin, write = RESNETS[name]
    source = save_resnet(tmp_path / "model.pth", write)
    assert recognise(read_state(source)) == origin
    converted = convert_image_backbone(source, tmp_path / "encoder")
    assert converted.kind.startswith("a ResNetModel, read as ")
    assert not converted.made_up
    assert_same_resnet(converted.path, resnet())


@pytest.mark.parametrize("name", VITS)
def test_vit_of_every_source(name: str, tmp_path: Path) -> None:
    origin, write = VITS[name]
    source = save_vit(tmp_path / "model.pth", write)
    assert recognise(read_state(source)) == origin
    converted = convert_image_backbone(source, tmp_path / "encoder")
    assert converted.kind.startswith("a ViTModel, read as ")
    assert converted.assumed[0] == "2 attention heads (of 64 channels)"
    assert_same_vit(converted.path, vit())


@pytest.mark.parametrize("origin", sorted({name for name, _ in RESNETS.values()}))
def test_backbone_alone_of_a_named_source(origin: str, tmp_path: Path) -> None:
    converted = convert_image_backbone(save_resnet(tmp_path / "model.pth"), tmp_path / "encoder", origin)
    assert_same_resnet(converted.path, resnet())


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 2, 2, 2), (1, 3, 11, 1)])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_depths_and_blocks(bottleneck: bool, depths: tuple[int, ...], tmp_path: Path) -> None:
    model = resnet(4, depths, bottleneck=bottleneck)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert_same_resnet(convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path, model)


@pytest.mark.parametrize(("image_size", "patch_size"), [(16, 8), (24, 4), (28, 14)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_sizes_of_a_vit(image_size: int, patch_size: int, qkv_bias: bool, tmp_path: Path) -> None:
    model = vit(image_size=image_size, patch_size=patch_size, depth=1, qkv_bias=qkv_bias)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    folder = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path
    assert_same_vit(folder, model, image_size)


def test_layer_norms_epsilon(tmp_path: Path) -> None:
    """Where tokens hardly vary, 1e-6 under the root is not 1e-12."""
    model = vit()
    with torch.no_grad():
        for weight in (model.cls_token, model.pos_embed, *model.patch_embed.parameters()):
            weight.mul_(1e-3)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    folder = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path
    assert_same_vit(folder, model)
    other = ViTModel.from_pretrained(folder, add_pooling_layer=False, layer_norm_eps=1e-12).eval()
    with torch.no_grad():
        assert (other(images(16)).last_hidden_state - model(images(16))).abs().max() > 0.05


def test_heads_that_are_given(tmp_path: Path) -> None:
    model = vit(num_heads=8)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    converted = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder", num_heads=8)
    assert not any("heads" in setting for setting in converted.assumed)
    assert_same_vit(converted.path, model)


@pytest.mark.parametrize(
    ("write", "dim", "num_heads"), [(moco_v3, 384, 12), (dino, 384, 6), (lightly_vit, 192, 3), (mae, 1280, 16)]
)
def test_heads_that_are_known(write: Callable[..., Any], dim: int, num_heads: int, tmp_path: Path) -> None:
    """12 of 32 channels in MoCo v3's ViT-S, 16 of 80 in MAE's ViT-H, else of 64."""
    model = vit(dim=dim, depth=1, num_heads=num_heads)
    torch.save(write(weights_of(model)), tmp_path / "model.pth")
    assert_same_vit(convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path, model)


def test_children_in_a_sequence(tmp_path: Path) -> None:
    """As in lightly's examples."""
    model = resnet()
    sequence = nn.Sequential(*list(model.children()))
    assert "4.0.conv1.weight" in sequence.state_dict()
    torch.save(lightning(under("backbone.", sequence.state_dict())), tmp_path / "model.ckpt")
    converted = convert_image_backbone(tmp_path / "model.ckpt", tmp_path / "encoder")
    assert_same_resnet(converted.path, model)


def test_wider_resnet(tmp_path: Path) -> None:
    """SwAV's and VICReg's w2: all is wider, where torchvision's wide ResNets are so inside the blocks alone."""
    model = resnet(24)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert_same_resnet(convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path, model)


def test_safetensors(tmp_path: Path) -> None:
    save_file(weights_of(vit()), tmp_path / "model.safetensors")
    assert_same_vit(convert_image_backbone(tmp_path / "model.safetensors", tmp_path / "encoder").path, vit())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_weight_keeps_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: weight.to(dtype) for name, weight in weights_of(vit()).items()}
    torch.save({"model": weights}, tmp_path / "model.pth")
    folder = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder").path
    here = ViTModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    assert {weight.dtype for weight in here.values()} == {dtype}
    parts = [here[f"layers.1.attention.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), weights["blocks.1.attn.qkv.weight"])
    assert torch.equal(here["layernorm.bias"], weights["norm.bias"])


def test_statistics_without_their_counter(tmp_path: Path) -> None:
    weights = {name: w for name, w in weights_of(resnet()).items() if not name.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "model.pth")
    converted = convert_image_backbone(tmp_path / "model.pth", tmp_path / "encoder")
    assert len(converted.made_up) == len([name for name in weights if name.endswith("running_mean")])
    assert_same_resnet(converted.path, resnet())


@pytest.mark.parametrize(
    ("write", "resample"), [(dino, Image.Resampling.BICUBIC), (moco_v3, Image.Resampling.BILINEAR)]
)
def test_image_processor_is_the_authors_evaluation(write: Callable, resample: int, tmp_path: Path) -> None:
    """Resize the shorter side to 256/224 of the size, crop the centre, normalise by ImageNet's statistics."""
    folder = convert_image_backbone(save_vit(tmp_path / "model.pth", write), tmp_path / "encoder").path
    picture = Image.effect_mandelbrot((60, 45), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    found = AutoImageProcessor.from_pretrained(folder, backend="pil")(picture, return_tensors="pt").pixel_values
    resized = picture.resize((24, 18), resample)
    cropped = resized.crop((4, 1, 20, 17))
    pixels = torch.tensor(list(cropped.tobytes())).view(16, 16, 3).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(found[0], expected)


def test_image_processor_of_a_resnet(tmp_path: Path) -> None:
    folder = convert_image_backbone(save_resnet(tmp_path / "model.pth", moco), tmp_path / "encoder").path
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert processor(Image.new("RGB", (300, 400)), return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)
    assert (processor.size["shortest_edge"], processor.resample) == (256, Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("write", "left_out"),
    [
        (moco, ["arch", "encoder_k", "epoch", "fc", "optimizer", "queue", "queue_ptr"]),
        (dino, ["args", "dino_loss", "epoch", "head", "optimizer", "student"]),
        (mae, ["args", "decoder_blocks", "decoder_embed", "epoch", "mask_token", "optimizer", "scaler"]),
        (
            lightly_vit,
            [
                "backbone.mask_token",
                "callbacks",
                "epoch",
                "head",
                "hyper_parameters",
                "optimizer_states",
                "pytorch-lightning_version",
                "student_backbone",
            ],
        ),
    ],
)
def test_what_is_left_out_is_named(write: Callable[..., Any], left_out: list[str], tmp_path: Path) -> None:
    save = save_resnet if write is moco else save_vit
    assert convert_image_backbone(save(tmp_path / "m.pth", write), tmp_path / "encoder").left_out == left_out


@pytest.mark.parametrize("save", [save_resnet, save_vit])
def test_probes_and_objectives_take_it(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = convert_image_backbone(save(tmp_path / "model.pth"), tmp_path / "encoder").path
    encoder, processor = load_encoder(folder)
    assert encoder(**processor(Image.new("RGB", (30, 20)), return_tensors="pt")).last_hidden_state.isfinite().all()
    assert normalisation(image_processor(16, str(folder))) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert SimCLRForPreTraining(SimCLRConfig(encoder_config=AutoConfig.from_pretrained(folder))).encoder is not None


def test_solo_learns_classifier_is_left_out(tmp_path: Path) -> None:
    converted = convert_image_backbone(save_resnet(tmp_path / "m.ckpt", solo_learn), tmp_path / "encoder")
    assert {"classifier", "projector", "momentum_backbone"} <= set(converted.left_out)

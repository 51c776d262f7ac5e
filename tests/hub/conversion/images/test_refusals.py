"""Nothing of a file is run, nothing is guessed, and what does not fit is named."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.images.from_published import convert_image_backbone
from hf_ssl.hub.conversion.images.reading import read_state, recognise
from hf_ssl.hub.conversion.inert import Inert
from tests.hub.conversion.images.naive_resnet import resnet
from tests.hub.conversion.images.naive_vit import vit
from tests.hub.conversion.images.published import (
    ARGS,
    dino,
    mae,
    moco,
    moco_v3,
    save_resnet,
    save_vit,
    solo_learn,
    weights_of,
)


class Pickled:
    """An object whose pickle calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def refused(source: Path, message: str, **options: Any) -> None:
    """Refused, and nothing is left behind."""
    with pytest.raises(InputError, match=message):
        convert_image_backbone(source, source.parent / "encoder", **options)
    assert not (source.parent / "encoder").exists()
    assert not list(source.parent.glob("*.partial"))


@pytest.mark.parametrize("place", ["args", "optimizer", "teacher"])
@pytest.mark.parametrize("new_format", [True, False])
def test_what_would_run_is_refused_and_named(place: str, new_format: bool, tmp_path: Path) -> None:
    state = dino(weights_of(vit()))
    call = Pickled(os.system, f"touch {tmp_path / 'ran'}")
    state[place] = Namespace(x=call) if place == "args" else state[place] | {"x": call}
    torch.save(state, tmp_path / "model.pth", _use_new_zipfile_serialization=new_format)
    refused(tmp_path / "model.pth", r"pickles posix\.system, which no checkpoint .* nothing of it was run")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "model.pth", weights_only=False)  # it would have run, else the refusal proved nothing
    assert (tmp_path / "ran").exists()


def test_arguments_are_stand_ins(tmp_path: Path) -> None:
    torch.save({"args": ARGS}, tmp_path / "model.pth")
    args = read_state(tmp_path / "model.pth")["args"]
    assert type(args) is not Namespace
    assert args.state.keys() == vars(ARGS).keys()
    assert args.state["lr"] == 0.1
    assert all(isinstance(args.state[name], Inert) for name in ("output_dir", "best", "sizes"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_truncated(name: str, share: float, tmp_path: Path) -> None:
    source = tmp_path / name
    if source.suffix == ".pth":
        torch.save(mae(weights_of(vit())), source)
    else:
        save_file(weights_of(vit()), source)
    content = source.read_bytes()
    source.write_bytes(content[: int(share * len(content))])
    refused(source, rf"{name} cannot be read as .* is it complete")


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors"])
def test_no_file(name: str, tmp_path: Path) -> None:
    refused(tmp_path / name, "There is no file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer3.1.bn2.running_var": None}, r"lacks layer3\.1\.bn2\.running_var, which torchvision's names of a Res"),
        ({"layer4.0.downsample.0.weight": None}, r"lacks layer4\.0\.downsample\.0\.weight"),
        ({"layer2.0.conv3.weight": None}, r"lacks layer2\.0\.conv3\.weight"),
        ({"0.weight": torch.ones(2)}, r"has, unknown here, 0\.weight"),
        ({"layer1.0.se.fc1.weight": torch.ones(2)}, r"has, unknown here, layer1\.0\.se\.fc1\.weight"),
        ({"layer5.0.conv1.weight": torch.ones(2)}, r"has, unknown here, layer5\.0\.conv1\.weight"),
        ({"layer1.1.conv4.weight": torch.ones(2)}, r"has, unknown here, layer1\.1\.conv4\.weight"),
        (
            {"layer1.0.conv2.weight": torch.ones(8, 4, 3, 3)},
            r"conv2\.weight has the shape \(8, 4, 3, 3\), .* ResNeXts",
        ),
        ({"layer1.0.conv1.weight": torch.ones(16, 8, 1, 1)}, r"would be \(8, 8, 1, 1\); wide ResNets"),
        ({"bn1.bias": torch.ones(9)}, r"bn1\.bias has the shape \(9,\)"),
        ({"layer2.0.conv3.weight": torch.tensor(1.0)}, r"layer2\.0\.conv1\.weight has the shape .* would be"),
    ],
)
def test_resnets_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    weights = {name: w for name, w in (weights_of(resnet()) | changes).items() if w is not None}
    torch.save(moco(weights), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm.weight": None, "norm.bias": None}, r"lacks norm\.weight, norm\.bias, which timm's names of a ViT"),
        ({"cls_token": None}, "lacks cls_token, which timm's names"),
        ({"blocks.0.attn.proj.bias": None}, r"lacks blocks\.0\.attn\.proj\.bias"),
        ({"blocks.1.attn.qkv.weight": None}, r"lacks blocks\.1\.attn\.qkv\.weight"),
        ({"blocks.0.attn.qkv.bias": None}, r"unknown here, blocks\.1\.attn\.qkv\.bias"),
        ({"blocks.0.ls1.gamma": torch.ones(4)}, r"unknown here, blocks\.0\.ls1\.gamma"),
        ({"dist_token": torch.ones(1, 1, 128)}, "unknown here, dist_token"),
        ({"blocks.1.attn.q_bias": torch.ones(4)}, r"unknown here, blocks\.1\.attn\.q_bias"),
        ({"pos_embed": torch.ones(1, 18, 128)}, "pos_embed has 18 positions, which is not one for the class token"),
        ({"pos_embed": torch.ones(1, 1, 128)}, "pos_embed has 1 positions"),
        ({"pos_embed": torch.ones(128)}, r"pos_embed has the shape \(128,\), where a ViT's has 3 dimensions"),
        ({"cls_token": torch.tensor(1.0)}, r"cls_token has the shape \(\), where a ViT's has 3"),
        (
            {"blocks.1.attn.qkv.weight": torch.ones(383, 128)},
            r"blocks\.1\.attn\.qkv\.weight has the shape \(383, 128\)",
        ),
        ({"patch_embed.proj.weight": torch.ones(128, 3, 4, 2)}, "only square patches"),
        ({"patch_embed.proj.weight": torch.ones(128, 1, 4, 4)}, "takes 1 channels; only those of RGB"),
    ],
)
def test_vits_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    weights = {name: w for name, w in (weights_of(vit()) | changes).items() if w is not None}
    torch.save(dino(weights), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", message)


def test_convolutional_stem_of_moco_v3(tmp_path: Path) -> None:
    weights = weights_of(vit())
    weights["patch_embed.proj.0.weight"] = weights.pop("patch_embed.proj.weight")
    torch.save(moco_v3(weights), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", r"lacks patch_embed\.proj\.weight")


def test_stem_for_small_images(tmp_path: Path) -> None:
    torch.save(solo_learn(weights_of(resnet(small_stem=True))), tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", r"conv1\.weight has the shape \(8, 3, 3, 3\), .* ImageNet stem")


@pytest.mark.parametrize("dim", [192, 384])
def test_heads_that_depend_on_the_objective(dim: int, tmp_path: Path) -> None:
    """solo-learn's MAE and MoCo v3 have 12, its DINO 3 and 6."""
    torch.save(solo_learn(weights_of(vit(dim=dim, depth=1))), tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", f"a ViT of {dim} channels from solo-learn has, .* give it with --num-attention")


def test_heads_of_no_convention(tmp_path: Path) -> None:
    torch.save(weights_of(vit(dim=40)), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "How many attention heads a ViT of 40 channels")


def test_heads_that_do_not_fit(tmp_path: Path) -> None:
    refused(save_vit(tmp_path / "model.pth"), "3 attention heads do not divide 128 channels", num_heads=3)
    refused(save_vit(tmp_path / "model.pth"), "0 attention heads", num_heads=0)
    refused(save_resnet(tmp_path / "model.pth"), "A ResNet has no attention", num_heads=2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"encoder.layers.0.blocks.0.norm1.weight": torch.ones(2)},
            r"neither .* but encoder\.layers; the sources are",
        ),
        ({"epoch": 1}, "but no tensors"),
        ([torch.ones(2)], "but no tensors"),
        (torch.ones(2), "holds no backbone"),
    ],
)
def test_no_backbone(state: Any, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "model.pth")
    assert recognise(read_state(tmp_path / "model.pth")) is None
    refused(tmp_path / "model.pth", message)


def test_another_source_than_named(tmp_path: Path) -> None:
    source = save_resnet(tmp_path / "model.pth", moco)
    refused(
        source, r"holds no backbone of SimSiam \(state_dict\.module\.encoder\.\*\); leave --from out", origin="simsiam"
    )
    refused(source, "There is no source of image checkpoints 'mocov2'; did you mean", origin="mocov2")


def test_destination_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="already exists"):
        convert_image_backbone(save_vit(tmp_path / "model.pth"), tmp_path / "encoder")
    assert (tmp_path / "encoder" / "notes.txt").read_text(encoding="utf-8") == "mine"

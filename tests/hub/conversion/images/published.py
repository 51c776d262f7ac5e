"""Checkpoints as libraries and authors write them: names and nesting of the reference code, around tiny backbones."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from tests.hub.conversion.images.naive_resnet import resnet
from tests.hub.conversion.images.naive_vit import vit

Weights = dict[str, Tensor]


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: weight for name, weight in weights.items()}


def other(weights: Weights) -> Weights:
    """Of the same names, with other values: a momentum encoder, a student."""
    return {name: weight + 1 for name, weight in weights.items()}


def head(name: str) -> Weights:
    return {f"{name}.weight": torch.ones(2, 3), f"{name}.bias": torch.ones(2)}


TRAINING = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}}
ARGS = Namespace(lr=0.1, output_dir=Path("runs"), best=np.float64(0.5), sizes=np.arange(3))


def moco(b: Weights) -> Any:
    module = under("encoder_q.", b | head("fc.0") | head("fc.2")) | under("encoder_k.", other(b) | head("fc.0"))
    module |= {"queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return TRAINING | {"arch": "resnet50", "state_dict": under("module.", module)}


def moco_v3(b: Weights) -> Any:
    module = under("base_encoder.", b | head("head.0") | head("fc.0")) | under("momentum_encoder.", other(b))
    return TRAINING | {"state_dict": under("module.", module | head("predictor.0")), "scaler": {"scale": 65536.0}}


def simsiam(b: Weights) -> Any:
    return {"state_dict": under("module.", under("encoder.", b | head("fc.0")) | head("predictor.0"))}


def dino(b: Weights) -> Any:
    parts = {"student": under("module.", under("backbone.", other(b)) | head("head.mlp.0"))}
    parts["teacher"] = under("backbone.", b) | head("head.mlp.0")
    return TRAINING | parts | {"args": ARGS, "dino_loss": {"center": torch.zeros(1, 4)}}


def dino_with_batch_norm(b: Weights) -> Any:
    """The teacher is wrapped too, if it has batch normalisation to synchronise."""
    state = dino(b)
    return state | {"teacher": under("module.", state["teacher"])}


def ibot(b: Weights) -> Any:
    state = dino(b) | {"ibot_loss": {"center": torch.zeros(1, 4)}}
    del state["dino_loss"]
    state["student"]["module.backbone.masked_embed"] = torch.zeros(1, 4)
    return state


def mae(b: Weights) -> Any:
    decoder = head("decoder_embed") | head("decoder_blocks.0.attn.qkv") | {"mask_token": torch.zeros(1, 1, 4)}
    return TRAINING | {"model": b | decoder, "args": ARGS, "scaler": {"scale": 65536.0}}


def mae_encoder(b: Weights) -> Any:
    return {"model": b}


def swav(b: Weights) -> Any:
    return under("module.", b | head("projection_head.0") | {"prototypes.weight": torch.ones(4, 2)})


def swav_whole(b: Weights) -> Any:
    return TRAINING | {"state_dict": swav(b)}


def barlow_twins(b: Weights) -> Any:
    own = {"bn.running_mean": torch.zeros(4), "bn.running_var": torch.ones(4)}
    return TRAINING | {"model": under("module.", under("backbone.", b) | head("projector.0") | own)}


def vicreg(b: Weights) -> Any:
    return TRAINING | {"model": under("module.", under("backbone.", b) | head("projector.0"))}


def vissl(b: Weights, inside: str = "_feature_blocks.") -> Any:
    model = {"trunk": under(inside, b), "heads": head("0.clf.0")}
    meta = {"trunk": {}, "heads": {}}
    return {
        "phase_idx": 1,
        "loss": {"queue": torch.zeros(2)},
        "classy_state_dict": {"base_model": {"model": model, "meta": meta}},
    }


def vissl_vit(b: Weights) -> Any:
    return vissl(b, "")


def lightning(state_dict: Weights) -> Any:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state_dict,
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "hyper_parameters": {"num_classes": 10},
    }


def solo_learn(b: Weights) -> Any:
    """With settings as Lightning keeps those of hydra: containers of omegaconf, and their type."""
    momentum = under("momentum_backbone.", other(b))
    settings = OmegaConf.create({"method": "byol", "optimizer": {"lr": 0.1, "layers": [1, None, "a"]}})
    state = lightning(under("backbone.", b) | head("classifier") | momentum | head("projector.0"))
    return state | {"hyper_parameters": settings, "hparams_type": type(settings)}


def solo_learn_older(b: Weights) -> Any:
    return lightning(under("encoder.", b) | head("classifier") | head("projector.0"))


def lightly(b: Weights) -> Any:
    """`backbone = resnet` in lightly's benchmarks."""
    key = under("key_backbone.", other(b))
    return lightning(under("backbone.", b) | key | head("projection_head.layers.0") | head("online_classifier"))


def lightly_vit(b: Weights) -> Any:
    student = under("student_backbone.vit.", other(b))
    mask = {"backbone.mask_token": torch.zeros(1, 1, 4)}
    return lightning(under("backbone.vit.", b | head("head")) | mask | student)


def lightly_teacher(b: Weights) -> Any:
    return lightning(under("student_backbone.vit.", other(b)) | under("teacher_backbone.vit.", b))


def alone(b: Weights) -> Any:
    return b


def with_classifier(b: Weights) -> Any:
    return b | head("fc")


RESNETS: dict[str, tuple[str, Callable[[Weights], Any]]] = {
    "MoCo": ("moco", moco),
    "MoCo v3": ("moco_v3", moco_v3),
    "SimSiam": ("simsiam", simsiam),
    "DINO": ("dino", dino_with_batch_norm),
    "SwAV": ("swav", swav),
    "SwAV's whole checkpoint": ("swav", swav_whole),
    "Barlow Twins": ("barlow_twins", barlow_twins),
    "VICReg": ("vicreg", vicreg),
    "VISSL": ("vissl", vissl),
    "solo-learn": ("solo-learn", solo_learn),
    "solo-learn, older": ("solo-learn", solo_learn_older),
    "lightly": ("lightly", lightly),
    "a backbone alone": ("torchvision", alone),
    "torchvision's own": ("torchvision", with_classifier),
}
VITS: dict[str, tuple[str, Callable[[Weights], Any]]] = {
    "MoCo v3": ("moco_v3", moco_v3),
    "DINO": ("dino", dino),
    "iBOT": ("ibot", ibot),
    "MAE": ("mae", mae),
    "MAE's encoder": ("mae", mae_encoder),
    "VISSL": ("vissl", vissl_vit),
    "solo-learn": ("solo-learn", solo_learn),
    "lightly": ("lightly", lightly_vit),
    "lightly's teacher": ("lightly", lightly_teacher),
    "a backbone alone": ("timm", alone),
}


def weights_of(model: nn.Module) -> Weights:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def save_resnet(path: Path, write: Callable[[Weights], Any] = alone, **changes: Any) -> Path:
    """A tiny ResNet in some author's form."""
    torch.save(write(weights_of(resnet()) | changes), path)
    return path


def save_vit(path: Path, write: Callable[[Weights], Any] = alone, **changes: Any) -> Path:
    """A tiny ViT in some author's form."""
    torch.save(write(weights_of(vit()) | changes), path)
    return path

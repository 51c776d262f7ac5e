"""Objectives of two views without negatives, and their loss and gradients on this process's share of a fixed batch.

    two_view_ranks.py OUTPUT        (under `torch.distributed.run`)

Leaves what each rank has computed in OUTPUT/<rank>.pt.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.modeling.vision.barlow_twins import BarlowTwinsConfig, BarlowTwinsForPreTraining
from hf_ssl.modeling.vision.byol import BYOLConfig, BYOLForPreTraining
from hf_ssl.modeling.vision.simsiam import SimSiamConfig, SimSiamForPreTraining
from hf_ssl.modeling.vision.vicreg import VICRegConfig, VICRegForPreTraining
from tests.modeling.vision.simclr_ranks import ENCODERS, loss_and_gradients

SIZES = {"projection_hidden_size": 12, "projection_size": 8}
OBJECTIVES = {
    "byol": (BYOLForPreTraining, BYOLConfig, {**SIZES, "prediction_hidden_size": 12}),
    "simsiam": (SimSiamForPreTraining, SimSiamConfig, {**SIZES, "prediction_hidden_size": 4}),
    "barlow_twins": (BarlowTwinsForPreTraining, BarlowTwinsConfig, {**SIZES, "redundancy_weight": 0.3}),
    "vicreg": (VICRegForPreTraining, VICRegConfig, SIZES),
}


def build(objective, encoder="resnet", **fields):
    """A tiny model in training mode, whose teacher, where it has one, has moved away from it."""
    torch.manual_seed(0)
    model_class, config_class, sizes = OBJECTIVES[objective]
    model = model_class(config_class(**{"encoder_config": ENCODERS[encoder], **sizes, **fields})).train()
    for name, parameter in model.named_parameters():
        if name.startswith("teacher."):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def joint_batch():
    return torch.randn(6, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def assert_two_processes_equal_one(ranks, objective):
    """The mean of the ranks' losses, DDP's gradient and the running statistics are those of the joint batch."""
    for encoder in ENCODERS:
        joint = loss_and_gradients(build(objective, encoder), joint_batch())
        first, second = (rank[objective][encoder] for rank in ranks)
        torch.testing.assert_close((first["loss"] + second["loss"]) / 2, joint["loss"])
        trained = [name for name, gradient in joint["gradients"].items() if gradient is not None]
        # of the whole gradient: a bias before a batch norm has none but rounding errors
        gradient = torch.cat([joint["gradients"][name].flatten() for name in trained])
        for rank in (first, second):
            error = torch.cat([rank["gradients"][name].flatten() for name in trained]) - gradient
            assert gradient.norm() > 0
            assert error.norm() <= 1e-5 * gradient.norm()
            for name, buffer in joint["buffers"].items():
                torch.testing.assert_close(rank["buffers"][name], buffer)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    own = joint_batch().chunk(dist.get_world_size())[dist.get_rank()]
    results = {
        objective: {
            name: loss_and_gradients(DistributedDataParallel(build(objective, name)), own) for name in ENCODERS
        }
        for objective in OBJECTIVES
    }
    torch.save(results, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()

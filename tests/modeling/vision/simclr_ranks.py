"""Loss and gradients of SimCLR on this process's share of a fixed batch; run as a script under DDP."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining

ENCODERS = {
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
    "vit": {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 16,
        "patch_size": 8,
    },
}


def build(encoder):
    torch.manual_seed(0)
    return SimCLRForPreTraining(SimCLRConfig(encoder_config=ENCODERS[encoder], projection_size=8)).train()


def joint_batch():
    return torch.randn(4, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def loss_and_gradients(model, pixel_values):
    output = model(pixel_values=pixel_values)
    output.loss.backward()
    return {
        "loss": output.loss.detach(),
        "gradients": {name.removeprefix("module."): p.grad for name, p in model.named_parameters()},
        "buffers": {name.removeprefix("module."): b for name, b in model.named_buffers()},
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    own = joint_batch().chunk(dist.get_world_size())[dist.get_rank()]
    results = {name: loss_and_gradients(DistributedDataParallel(build(name)), own) for name in ENCODERS}
    torch.save(results, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()

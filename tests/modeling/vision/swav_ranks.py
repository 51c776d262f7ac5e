"""SwAV on this process's share of a fixed batch, with a queue that is in use; run as a script under DDP."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.modeling.vision.swav import SwAVConfig, SwAVForPreTraining
from tests.modeling.vision.simclr_ranks import ENCODERS

NUM_STEPS = 4


def build(encoder, **fields):
    torch.manual_seed(0)
    sizes = {"projection_hidden_size": 16, "projection_size": 8, "num_prototypes": 6}
    return SwAVForPreTraining(SwAVConfig(encoder_config=ENCODERS[encoder], **sizes, **fields)).train()


def joint_batch(step=0):
    generator = torch.Generator().manual_seed(1 + step)
    sizes = {"pixel_values": (4, 2, 3, 16, 16), "local_pixel_values": (4, 2, 3, 8, 8)}
    return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}


def last_step(model, part, num_parts):
    """Loss, gradient and buffers of the last of a few steps, whose weights are not moved: the queue fills."""
    own = getattr(model, "module", model)
    for step in range(NUM_STEPS):
        model.zero_grad()
        output = model(**{name: value.chunk(num_parts)[part] for name, value in joint_batch(step).items()})
        output.loss.backward()
        own.after_optimizer_step((step + 1) / NUM_STEPS)
    return {
        "loss": output.loss.detach(),
        "gradients": {name: p.grad for name, p in own.named_parameters()},
        "buffers": dict(own.named_buffers()),
    }


def runs(wrap=lambda model: model, part=0, num_parts=1):
    fields = {"queue_size": 10, "queue_start_share": 0.5}
    return {encoder: last_step(wrap(build(encoder, **fields)), part, num_parts) for encoder in ENCODERS}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    results = runs(DistributedDataParallel, dist.get_rank(), dist.get_world_size())
    torch.save(results, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()

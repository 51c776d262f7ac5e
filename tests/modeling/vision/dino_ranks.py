"""One step of DINO and iBOT on this process's share of a fixed batch, in micro-batches; run as a script under DDP."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax
from hf_ssl.modeling.vision.dino import DINOConfig, DINOForPreTraining
from hf_ssl.modeling.vision.ibot import IBOTConfig, IBOTForPreTraining
from tests.modeling.vision.simclr_ranks import ENCODERS

FINE_VIT = {**ENCODERS["vit"], "patch_size": 4}
SIZES = {"num_prototypes": 12, "head_hidden_size": 16, "bottleneck_size": 8}


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    pooling = "cls" if encoder == "vit" else "mean"
    config = DINOConfig(encoder_config=ENCODERS[encoder], **{"pooling": pooling, **SIZES, **fields})
    return DINOForPreTraining(config).train()


def build_ibot(**fields):
    torch.manual_seed(0)
    return IBOTForPreTraining(IBOTConfig(encoder_config=FINE_VIT, **SIZES, **fields)).train()


def joint_batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(4, 2, 3, 16, 16, generator=generator),
        "local_pixel_values": torch.randn(4, 3, 3, 8, 8, generator=generator),
    }


def masked_batch(**fields):
    """The views of `joint_batch` with masks, of different numbers of patches."""
    config = IBOTConfig(encoder_config=FINE_VIT, mask_probability=0.75, **fields)
    return IBOTForPreTraining.draw_inputs(config, joint_batch(), [item_generator(0, 0, i) for i in range(4)])


def step(model, batch, num_micro_batches=1, num_ranks=1):
    """Loss, gradients and centres of an optimiser step, as the trainer makes it."""
    objective = model.module if num_ranks > 1 else model
    counts = {name: num_ranks * count for name, count in objective.count_predictions(batch).items()}
    micro_batches = zip(*(value.chunk(num_micro_batches) for value in batch.values()), strict=True)
    total = torch.zeros(())
    for i, values in enumerate(micro_batches):
        is_last = i == num_micro_batches - 1
        with nullcontext() if is_last or num_ranks == 1 else model.no_sync():
            output = model(**dict(zip(batch, values, strict=True)), num_items_in_batch=counts)
            (output.loss * num_ranks).backward()
        total += output.loss.detach()
    objective.after_optimizer_step(0.5)
    return {
        "loss": total,
        "gradients": {name: p.grad for name, p in objective.named_parameters() if p.requires_grad},
        "centres": torch.cat([part.centre for part in objective.modules() if isinstance(part, CentredSoftmax)]),
    }


# a batch norm sees one micro-batch at a time
CASES = {
    "vit": (build, joint_batch, 2),
    "resnet": (partial(build, "resnet"), joint_batch, 1),
    "ibot": (build_ibot, masked_batch, 2),
}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    results = {}
    for name, (make, batch, num_micro_batches) in CASES.items():
        own = {field: value.chunk(ranks)[dist.get_rank()] for field, value in batch().items()}
        results[name] = step(DistributedDataParallel(make()), own, num_micro_batches, ranks)
    torch.save(results, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()

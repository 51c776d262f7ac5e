"""Loss and gradients of context prediction on this process's share of a fixed batch; run as a script under DDP."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.vision.context_prediction import ContextPredictionConfig, ContextPredictionForPreTraining
from tests.modeling.vision.simclr_ranks import ENCODERS

NUM_IMAGES = 4


def build(encoder_config=ENCODERS["vit"], **fields):
    torch.manual_seed(0)
    sizes = {"patch_size": 16, "patch_jitter": 2, "head_hidden_size": 12, "head_dropout": 0}
    config = ContextPredictionConfig(encoder_config=encoder_config, **{**sizes, **fields})
    return ContextPredictionForPreTraining(config).train()


def joint_batch(config):
    pixel_values = torch.randn(NUM_IMAGES, 3, 54, 54, generator=torch.Generator().manual_seed(1))
    generators = [item_generator(0, 0, index) for index in range(NUM_IMAGES)]
    return ContextPredictionForPreTraining.draw_inputs(config, {"pixel_values": pixel_values}, generators)


def loss_and_gradients(model, batch):
    output = model(**batch)
    output.loss.backward()
    return {
        "loss": output.loss.detach(),
        "gradients": {name.removeprefix("module."): p.grad for name, p in model.named_parameters()},
        "buffers": {name.removeprefix("module."): b for name, b in model.named_buffers()},
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    results = {}
    for name in ENCODERS:
        model = build(ENCODERS[name])
        batch = joint_batch(model.config)
        own = {key: value.chunk(dist.get_world_size())[dist.get_rank()] for key, value in batch.items()}
        results[name] = loss_and_gradients(DistributedDataParallel(model), own)
    torch.save(results, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()

"""Two steps of MoCo, MoCo v3 and NNCLR on this process's share of a fixed batch; run as a script under DDP."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.modeling.vision.moco import MoCoConfig, MoCoForPreTraining
from hf_ssl.modeling.vision.moco_v3 import MoCoV3Config, MoCoV3ForPreTraining
from hf_ssl.modeling.vision.nnclr import NNCLRConfig, NNCLRForPreTraining
from tests.modeling.vision.simclr_ranks import ENCODERS

NUM_IMAGES = 8


def moco(encoder, **fields):
    torch.manual_seed(0)
    sizes = {"projection_size": 8, "queue_size": 12, "momentum": 0.5, "temperature": 0.2}
    return MoCoForPreTraining(MoCoConfig(encoder_config=ENCODERS[encoder], **sizes, **fields))


def moco_v3(encoder, **fields):
    torch.manual_seed(0)
    fields = {"freeze_patch_embedding": encoder == "vit", "pooling": "mean", **fields}
    sizes = {"mlp_hidden_size": 16, "projection_size": 8, "momentum": 0.5}
    return MoCoV3ForPreTraining(MoCoV3Config(encoder_config=ENCODERS[encoder], **sizes, **fields))


def nnclr(encoder, **fields):
    torch.manual_seed(0)
    sizes = {"projection_hidden_size": 16, "projection_size": 8, "prediction_hidden_size": 16, "queue_size": 12}
    return NNCLRForPreTraining(NNCLRConfig(encoder_config=ENCODERS[encoder], **sizes, **fields))


CASES = {
    **{f"moco {name}": lambda name=name: moco(name, key_batch_norm="joint") for name in ENCODERS},
    "moco shuffled vit": lambda: moco("vit"),  # without batch norm it makes no difference who encodes a key
    **{f"moco_v3 {name}": lambda name=name: moco_v3(name) for name in ENCODERS},
    **{f"nnclr {name}": lambda name=name: nnclr(name) for name in ENCODERS},
}


def joint_batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_IMAGES, 2, 3, 16, 16, generator=generator)


def key_order():
    return torch.rand(NUM_IMAGES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def inputs(model, share=slice(None)):
    batch = {"pixel_values": joint_batch()[share]}
    if model.config.model_type == "moco":
        batch["key_order"] = key_order()[share]
    return batch


def two_steps(model, module, batch):
    """Of SGD: the losses, the gradient of the second, and the state after both."""
    losses = []
    for _ in range(2):
        module.zero_grad()
        loss = module(**batch).loss
        loss.backward()
        losses.append(loss.detach())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        model.after_optimizer_step(0.5)
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"losses": torch.stack(losses), "gradient": gradient, "state": model.state_dict()}


def main():
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), NUM_IMAGES // dist.get_world_size()
    share = slice(rank * size, (rank + 1) * size)
    results = {}
    for name, build in CASES.items():
        model = build()
        module = DistributedDataParallel(model, find_unused_parameters=True)
        results[name] = two_steps(model, module, inputs(model, share))
    shuffled = moco("resnet")
    results["logits of shuffled keys"] = shuffled(**inputs(shuffled, share)).logits
    torch.save(results, Path(sys.argv[1]) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

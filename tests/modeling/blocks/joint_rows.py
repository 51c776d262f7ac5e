"""Run in several processes: what each of them computes from its own rows, written to <folder>/<rank>.pt."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hf_ssl.modeling.blocks.batch_norm import JointBatchNorm1d, JointBatchNorm2d
from hf_ssl.modeling.blocks.contrastive import nt_xent
from hf_ssl.modeling.blocks.gather import gather_with_gradient, sum_over_processes
from hf_ssl.modeling.blocks.gumbel_quantizer import probability_perplexity
from hf_ssl.modeling.blocks.item_memory import ItemMemory
from hf_ssl.modeling.blocks.sinkhorn import sinkhorn


def rows(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def own(tensor):
    return tensor.chunk(dist.get_world_size())[dist.get_rank()].clone().requires_grad_()


def gathered():
    x = own(rows(4, 3))
    everything = gather_with_gradient(x)
    # a different function of the gathered rows on each rank
    ((dist.get_rank() + 1) * everything.pow(2)).sum().backward()
    return {"rows": everything.detach(), "gradient": x.grad}


def summed():
    x = own(rows(4, 3))
    total = sum_over_processes(x)
    ((dist.get_rank() + 1) * total.pow(2)).sum().backward()
    return {"total": total.detach(), "gradient": x.grad}


def perplexity():
    logits, counted = own(rows(4, 3, 2, 5)), (torch.arange(12).view(4, 3) != 7).chunk(2)[dist.get_rank()]
    value = probability_perplexity(logits, counted)
    (value.sum() / 2).backward()
    return {"value": value.detach(), "gradient": logits.grad}


def contrasted():
    first, second = own(rows(2, 4, 3)[0]), own(rows(2, 4, 3)[1])
    loss, logits, targets = nt_xent(first, second, 0.5)
    loss.backward()
    return {
        "loss": loss.detach(),
        "logits": logits.detach(),
        "targets": targets,
        "gradients": [first.grad, second.grad],
    }


def assigned():
    scores, weights = rows(8, 3), torch.tensor([0.0] + [1.0] * 7)
    own_rows = slice(0, 5) if dist.get_rank() == 0 else slice(5, 8)
    return sinkhorn(scores[own_rows], 0.5, 3, weights[own_rows])


def remembered():
    memory = ItemMemory(5, 3)
    memory.push(torch.tensor([[4, 1], [0, 2]])[dist.get_rank()], own(rows(4, 3)))
    memory.commit()
    return memory.rows


def normalised(norm, *shape):
    x = own(3 + 2 * rows(*shape))
    y = norm(x)
    y.pow(3).mean().backward()
    return {
        "output": y.detach(),
        "gradient": x.grad,
        "weight": norm.weight.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
        "tracked": norm.num_batches_tracked,
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    results = {
        "gathered": gathered(),
        "summed": summed(),
        "perplexity": perplexity(),
        "contrasted": contrasted(),
        "sinkhorn": assigned(),
        "item_memory": remembered(),
        "normalised_1d": normalised(JointBatchNorm1d(3), 8, 3),
        "normalised_2d": normalised(JointBatchNorm2d(3), 4, 3, 2, 5),
    }
    torch.save(results, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()

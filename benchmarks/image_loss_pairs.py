"""Rows of `image_losses.py`: one loss of ours and lightly's on the same tensors."""

# N rows, D dimensions, K prototypes or rows of a queue, V views, T of them the teacher's

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig

from hf_ssl.modeling import OBJECTIVES
from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax
from hf_ssl.modeling.blocks.contrastive import info_nce, info_nce_in_batch, nt_xent
from hf_ssl.modeling.blocks.queue import MemoryQueue
from hf_ssl.modeling.blocks.self_distillation import collapse_diagnostics, distil, other_views
from hf_ssl.modeling.blocks.similarity import cosine
from hf_ssl.modeling.blocks.sinkhorn import sinkhorn
from hf_ssl.modeling.blocks.views import EncodedViews
from hf_ssl.modeling.vision.swav import swapped_prediction

QUEUE_SIZE, NUM_PROTOTYPES, NUM_LOCAL = 65_536, 3000, 6
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, CENTRE_DECAY = 0.1, 0.04, 0.9


class Sides(NamedTuple):
    """Two functions of the same `inputs`, which have gradients, that give the loss; lightly's does its updates.

    Ours are done in `after`, once the backward pass is over.
    """

    inputs: list[Tensor]
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    after: Callable[[], None] = lambda: None


class Pair(NamedTuple):
    """How to make the [`Sides`] for N and D.

    Args:
        make (function of N and D): see there.
        dims (`tuple[int, ...]`): the D that it is timed with.
        differs (`str`): how the definitions differ, if they do.
        accounted_for (function): from lightly's value to the one that ours should have.
    """

    make: Callable[[int, int], Sides]
    dims: tuple[int, ...]
    differs: str = "the same"
    accounted_for: Callable[[float], float] = lambda value: value


def views(num_rows: int, dim: int, num_views: int = 2) -> list[Tensor]:
    """Views that are alike, as a training would have them."""
    common = torch.randn(num_rows, dim)
    return [(common + torch.randn(num_rows, dim)).requires_grad_() for _ in range(num_views)]


def lightly(module: str, name: str, **arguments: Any) -> Any:
    """An object of lightly, which is imported by then."""
    return getattr(import_module(f"lightly.{module}"), name)(**arguments)


def ready(name: str, dim: int, **fields: Any) -> Any:
    """An objective without perceptrons, in training mode: its `compare` begins at the projections."""
    row = OBJECTIVES[name]
    encoder = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=16)
    model = row.model_class(row.config_class(encoder_config=encoder, projection_size=dim, **fields))
    del model.projection_head[:]
    return model.train()


def pair_of_views(name: str, theirs: Any, num_rows: int, dim: int) -> Sides:
    """The whole `compare` of an objective."""
    model = ready(name, dim)
    z = torch.stack(views(num_rows, dim)).detach().requires_grad_()  # (2, N, D)
    return Sides([z], lambda: model.compare(EncodedViews(features=z.transpose(0, 1))).loss, lambda: theirs(*z))


def simclr(num_rows: int, dim: int) -> Sides:
    z_1, z_2 = views(num_rows, dim)
    theirs = lightly("loss", "NTXentLoss", temperature=0.1)
    return Sides([z_1, z_2], lambda: nt_xent(z_1, z_2, 0.1)[0], lambda: theirs(z_1, z_2))


def moco(num_rows: int, dim: int) -> Sides:
    q, k = views(num_rows, dim)
    k = k.detach()
    theirs = lightly("loss", "NTXentLoss", temperature=0.07, memory_bank_size=(QUEUE_SIZE, dim))
    queue = MemoryQueue(QUEUE_SIZE, dim)
    theirs.memory_bank.bank.copy_(queue.rows)

    def ours() -> Tensor:
        loss, _, _ = info_nce(q, k, queue.rows, temperature=0.07)
        queue.push(F.normalize(k, dim=1))
        return loss

    return Sides([q], ours, lambda: theirs(q, k), queue.commit)


def nnclr(num_rows: int, dim: int) -> Sides:
    z_1, z_2, p_1, p_2 = views(num_rows, dim, num_views=4)
    z_1, z_2 = z_1.detach(), z_2.detach()
    criterion = lightly("loss", "NTXentLoss", temperature=0.1)
    bank = lightly("models.modules.nn_memory_bank", "NNMemoryBankModule", size=(QUEUE_SIZE, dim))
    model = ready("nnclr", dim, queue_size=QUEUE_SIZE)
    bank.bank.copy_(model.queue.rows)

    def ours() -> Tensor:
        (nn_1, _), (nn_2, _) = model.nearest_neighbours(z_1), model.nearest_neighbours(z_2)
        loss = (info_nce_in_batch(nn_1, p_2, 0.1)[0] + info_nce_in_batch(nn_2, p_1, 0.1)[0]) / 2
        model.queue.push(F.normalize(z_1, dim=1))
        return loss

    def theirs() -> Tensor:  # as lightly's own example has it
        nn_1, nn_2 = bank(z_1, update=False), bank(z_2, update=True)
        return (criterion(nn_1, p_2) + criterion(nn_2, p_1)) / 2

    return Sides([p_1, p_2], ours, theirs, model.queue.commit)


def simsiam(num_rows: int, dim: int) -> Sides:
    p_1, p_2, z_1, z_2 = views(num_rows, dim, num_views=4)
    z_1, z_2 = z_1.detach(), z_2.detach()
    criterion = lightly("loss", "NegativeCosineSimilarity")

    def ours() -> Tensor:
        return -(cosine(p_1, z_2).mean() + cosine(p_2, z_1).mean()) / 2

    return Sides([p_1, p_2], ours, lambda: (criterion(p_1, z_2) + criterion(p_2, z_1)) / 2)


def byol(num_rows: int, dim: int) -> Sides:
    sides = simsiam(num_rows, dim)
    (q_1, q_2), (z_1, z_2) = sides.inputs, (view.detach() for view in views(num_rows, dim))
    criterion = lightly("loss", "NegativeCosineSimilarity")

    def ours() -> Tensor:
        return 4 - 2 * (cosine(q_1, z_2) + cosine(q_2, z_1)).mean()

    return Sides([q_1, q_2], ours, lambda: (criterion(q_1, z_2) + criterion(q_2, z_1)) / 2)


def barlow_twins(num_rows: int, dim: int) -> Sides:
    theirs = lightly("loss", "BarlowTwinsLoss", lambda_param=0.0051)
    return pair_of_views("barlow_twins", theirs, num_rows, dim)


def vicreg(num_rows: int, dim: int) -> Sides:
    return pair_of_views("vicreg", lightly("loss", "VICRegLoss"), num_rows, dim)


def swav(num_rows: int, dim: int) -> Sides:
    prototypes = F.normalize(torch.randn(NUM_PROTOTYPES, dim), dim=1)
    z = torch.stack(views(num_rows, dim, num_views=2 + NUM_LOCAL)).detach().requires_grad_()  # (V, N, D)
    theirs = lightly("loss", "SwaVLoss", temperature=0.1)

    def ours() -> Tensor:
        scores = F.normalize(z, dim=2) @ prototypes.T
        codes = torch.stack([sinkhorn(of_view, 0.05, 3) for of_view in scores[:2]])
        return swapped_prediction(scores / 0.1, codes)

    def of_lightly() -> Tensor:
        scores = list(F.normalize(z, dim=2) @ prototypes.T)
        return theirs(scores[:2], scores[2:]).squeeze()

    return Sides([z], ours, of_lightly)


def sharpening(num_prototypes: int) -> CentredSoftmax:
    """The teacher's softmax of DINO and iBOT at one temperature."""
    return CentredSoftmax(
        num_prototypes,
        centre_decay=CENTRE_DECAY,
        temperature=TEACHER_TEMPERATURE,
        final_temperature=TEACHER_TEMPERATURE,
        warmup_share=0.0,
    )


def dino(num_rows: int, num_prototypes: int) -> Sides:
    """Unit vectors of 256 dimensions, 2 global and 6 local views; N counts images, D prototypes."""
    z = F.normalize(torch.randn(num_rows, 2 + NUM_LOCAL, 256), dim=2).requires_grad_()  # (N, V, E)
    z_teacher = F.normalize(z[:, :2].detach() + 0.05 * torch.randn(num_rows, 2, 256), dim=2)
    student, teacher = (F.normalize(torch.randn(num_prototypes, 256), dim=1) for _ in range(2))
    student.requires_grad_()
    sharpen = sharpening(num_prototypes)
    weights, pairs = torch.full((num_rows,), 1 / num_rows), other_views(2, 2 + NUM_LOCAL, z.device)
    theirs = lightly("loss", "DINOLoss", output_dim=num_prototypes, center_momentum=CENTRE_DECAY)

    def ours() -> Tensor:
        settings = {"temperature": STUDENT_TEMPERATURE, "sharpen": sharpen, "weights": weights}
        distilled = distil(z, z_teacher, student, teacher, **settings)  # type: ignore[arg-type]
        collapse_diagnostics(distilled, weights, pairs)
        sharpen.observe(z_teacher.mean(dim=(0, 1)) @ teacher.T, num_rows)
        return (distilled.cross_entropy * pairs).sum() / num_rows

    def of_lightly() -> Tensor:
        with torch.no_grad():
            of_teacher = z_teacher @ teacher.T
        return theirs(list(of_teacher.unbind(1)), list((z @ student.T).unbind(1)))

    return Sides([z, student], ours, of_lightly, partial(sharpen.commit, progress=1.0))


def ibot(num_rows: int, num_prototypes: int) -> Sides:
    """Of N patches half are masked, of views of 14 x 14 = 196; D counts prototypes."""
    grid = (max(1, num_rows // 98), 14, 14)
    mask = torch.rand(grid) < 0.5
    num_masked = int(mask.sum())
    z = F.normalize(torch.randn(num_masked, 256), dim=1).requires_grad_()
    z_teacher = F.normalize(z.detach() + 0.05 * torch.randn(num_masked, 256), dim=1)
    student, teacher = (F.normalize(torch.randn(num_prototypes, 256), dim=1) for _ in range(2))
    student.requires_grad_()
    sharpen = sharpening(num_prototypes)
    of_patches = (1 / mask.sum(dim=(1, 2), keepdim=True)).expand_as(mask)[mask]
    weights, one_view = of_patches / of_patches.sum(), torch.ones(1, 1)
    theirs = lightly("loss", "IBOTPatchLoss", output_dim=num_prototypes, center_momentum=CENTRE_DECAY)

    def ours() -> Tensor:
        settings = {"temperature": STUDENT_TEMPERATURE, "sharpen": sharpen, "weights": weights}
        distilled = distil(z[:, None], z_teacher[:, None], student, teacher, **settings)  # type: ignore[arg-type]
        collapse_diagnostics(distilled, weights, one_view)
        sharpen.observe(z_teacher.mean(dim=0) @ teacher.T, len(mask))
        return (distilled.cross_entropy.flatten() * of_patches).sum() / len(mask)

    def of_lightly() -> Tensor:
        with torch.no_grad():
            of_teacher = z_teacher @ teacher.T
        return theirs(of_teacher, z @ student.T, mask)

    return Sides([z, student], ours, of_lightly, partial(sharpen.commit, progress=1.0))


NNCLR_DIFFERS = (
    "lightly's has the negatives of SimCLR, other predictions and other neighbours besides, and both directions; "
    "ours is Eq. 3"
)

PAIRS = {
    "simclr": Pair(simclr, (128, 2048)),
    "moco": Pair(moco, (128,)),
    "nnclr": Pair(nnclr, (256,), NNCLR_DIFFERS),
    "simsiam": Pair(simsiam, (256, 2048)),
    "byol": Pair(byol, (256,), "ours (Eq. 2) = 4 + 4 x lightly's", lambda value: 4 + 4 * value),
    "barlow_twins": Pair(barlow_twins, (128, 2048), "the same, lightly's at our λ .0051 instead of its .005"),
    "vicreg": Pair(vicreg, (128, 2048)),
    "swav": Pair(swav, (128,)),
    "dino": Pair(dino, (4096, 65_536)),
    "ibot": Pair(ibot, (8192,), "the same but for the centre: ours is the mean over all patches of the teacher"),
}

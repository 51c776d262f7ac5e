"""Rows of `objective_overhead.py`: all objectives of images, with a ViT-S/16 on images of 224 pixels.

Heads, queues and numbers of prototypes are the papers' (the defaults of the configs); where that says nothing, DINO
has 8 local views and iBOT 10, SwAV and DeepCluster-v2 6, of 96 pixels. The passes that a method needs by definition
are: the encoder forwards and backwards on each view that has a gradient (rotation 4 copies, jigsaw and context
prediction 9 patches), forwards alone on each view of a teacher or tokenizer, and for MAE and I-JEPA the decoder or
predictor, which are networks of their own. All else is what the objective adds: drawing excepted, which the data
loader does.

A batch has 4 images; 16 where the head's matrices have a hundred million weights (Barlow Twins, VICReg) or as many as
two encoders (jigsaw): their gradients are written once a step, however many images there are, and papers' batches have
256 and more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from overhead_case import Batch, Case
from torch import Tensor
from transformers import ImageGPTConfig, PreTrainedModel, ResNetConfig, ViTConfig

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling import OBJECTIVES
from hf_ssl.modeling.blocks.patch_masking import patch_grid, visible_patches
from hf_ssl.modeling.blocks.views import interpolation
from hf_ssl.modeling.vision.igpt import IGPTConfig, IGPTForPreTraining
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining

SIDE, LOCAL_SIDE, NUM_IMAGES = 224, 96, 4
NUM_IMAGES_LARGE_HEAD = 16


def vit_small() -> ViTConfig:
    return ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)


def encoded(encoder: PreTrainedModel, images: Tensor) -> Tensor:
    """The last layer for images (..., 3, S, S), all in one pass."""
    images = images.flatten(0, -4).contiguous(memory_format=torch.channels_last)  # the layout that is fastest
    return encoder(pixel_values=images, **interpolation(encoder, images)).last_hidden_state


def view_passes(model: Any, bare: Batch) -> Tensor:
    """Student's passes over all views: those of one size together."""
    loss = encoded(model.encoder, bare["pixel_values"]).mean()
    if "local_pixel_values" in bare:
        loss = loss + encoded(model.encoder, bare["local_pixel_values"]).mean()
    return loss


def teacher_pass(model: Any, images: Tensor) -> None:
    """A pass without gradient of the teacher, which is an encoder, or one with a head."""
    teacher = model.teacher if isinstance(model.teacher, PreTrainedModel) else model.teacher["encoder"]
    with torch.no_grad():
        encoded(teacher, images)


def passes_with_teacher(model: Any, bare: Batch) -> Tensor:
    """The student's over all views, the teacher's over the global ones."""
    teacher_pass(model, bare["pixel_values"])
    return view_passes(model, bare)


def query_and_key_passes(model: Any, bare: Batch) -> Tensor:
    """MoCo: one view is the student's, the other the teacher's."""
    query, key = bare["pixel_values"].unbind(dim=1)
    teacher_pass(model, key)
    return encoded(model.encoder, query).mean()


def mae_passes(model: Any, bare: Batch) -> Tensor:
    """The encoder on the visible quarter, the decoder on all patches."""
    visible, masked = bare["visible_positions"], bare["masked_positions"]
    with visible_patches(model.encoder, visible):
        hidden = encoded(model.encoder, bare["pixel_values"])
    return model.decoder(hidden, patch_grid(model.encoder.config), visible, masked).mean()


def pass_with_tokenizer(model: Any, bare: Batch) -> Tensor:
    """BEiT: the tokenizer, here a codebook of 8,192 patches, on whole images, and the encoder."""
    model.tokens(bare["pixel_values"])
    return view_passes(model, bare)


def ijepa_passes(model: Any, bare: Batch) -> Tensor:
    """The teacher on all patches, the encoder on the context, the predictor on each block."""
    context, targets = bare["context_positions"], bare["target_positions"]
    teacher_pass(model, bare["pixel_values"])
    with visible_patches(model.encoder, context):
        hidden = encoded(model.encoder, bare["pixel_values"])
    return model.predictor(hidden[:, 1:], patch_grid(model.encoder.config), context, targets).mean()


def case(
    name: str,
    passes: Callable[[Any, Batch], Tensor],
    *,
    num_views: int | None = 2,
    num_local: int = 0,
    side: int = SIDE,
    bare_shape: tuple[int, ...] | None = None,
    num_images: int = NUM_IMAGES,
    **fields: Any,
) -> Case:
    """An objective on a ViT-S, or on the encoder that `fields` name.

    Args:
        name (`str`): of [`OBJECTIVES`].
        passes (function of model and batch): see [`Case`].
        num_views (`int`, *optional*): of an image in `pixel_values`; `None` for plain images.
        num_local (`int`): local views of an image.
        side (`int`): of an image, in pixels.
        bare_shape (`tuple[int, ...]`, *optional*): of what the bare encoder sees of an image, where that is not the
            batch's `pixel_values`.
        num_images (`int`): of the batch.
        fields: of the config.
    """
    row = OBJECTIVES[name]
    config = row.config_class(**{"encoder_config": vit_small(), **fields})
    views = () if num_views is None else (num_views,)
    images = {"pixel_values": torch.randn(num_images, *views, 3, side, side)}
    if num_local:
        images["local_pixel_values"] = torch.randn(num_images, num_local, 3, LOCAL_SIDE, LOCAL_SIDE)
    generators = [item_generator(0, 0, index) for index in range(num_images)]
    batch = row.model_class.draw_inputs(config, images, generators)
    bare = batch if bare_shape is None else {"pixel_values": torch.randn(num_images, *bare_shape)}
    return Case(row.model_class(config), batch, bare, passes)


def simclr_resnet() -> Case:
    """ResNet-50, two views of 8 images."""
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=ResNetConfig()))
    batch = {"pixel_values": torch.randn(8, 2, 3, SIDE, SIDE)}
    return Case(model, batch, batch, view_passes)


def igpt() -> Case:
    """32 x 32 pixels of 512 colours, layers as those of ViT-S."""
    encoder = ImageGPTConfig(n_embd=384, n_layer=12, n_head=6, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    batch = {"input_ids": torch.randint(512, (NUM_IMAGES, encoder.n_positions))}
    return Case(IGPTForPreTraining(IGPTConfig(encoder_config=encoder)), batch, batch)


plain = partial(case, passes=view_passes, num_views=None)
two_views = partial(case, passes=view_passes)
with_teacher = partial(case, passes=passes_with_teacher)

CASES: dict[str, Callable[[], Case]] = {
    "rotation": partial(plain, "rotation", bare_shape=(4, 3, SIDE, SIDE)),
    "context_prediction": partial(plain, "context_prediction", side=432, bare_shape=(9, 3, 96, 96)),
    "jigsaw": partial(plain, "jigsaw", side=255, bare_shape=(9, 3, 64, 64), num_images=NUM_IMAGES_LARGE_HEAD),
    "simclr": partial(two_views, "simclr"),
    "simclr_resnet": simclr_resnet,
    "moco": partial(case, "moco", query_and_key_passes),
    "moco_v3": partial(with_teacher, "moco_v3"),
    "nnclr": partial(two_views, "nnclr"),
    "deepcluster": partial(plain, "deepcluster", num_items=10_000),
    "deepcluster_v2": partial(two_views, "deepcluster_v2", num_local=6, num_items=10_000),
    "swav": partial(two_views, "swav", num_local=6),
    "byol": partial(with_teacher, "byol"),
    "simsiam": partial(two_views, "simsiam"),
    "dino": partial(with_teacher, "dino", num_local=8),
    "ibot": partial(with_teacher, "ibot", num_local=10),
    "barlow_twins": partial(two_views, "barlow_twins", num_images=NUM_IMAGES_LARGE_HEAD),
    "vicreg": partial(two_views, "vicreg", num_images=NUM_IMAGES_LARGE_HEAD),
    "mae": partial(plain, "mae", passes=mae_passes),
    "beit": partial(plain, "beit", passes=pass_with_tokenizer),
    "simmim": partial(plain, "simmim"),
    "masked_patch": partial(plain, "masked_patch"),
    "data2vec_vision": partial(plain, "data2vec_vision", passes=passes_with_teacher),
    "ijepa": partial(plain, "ijepa", passes=ijepa_passes),
    "igpt": igpt,
}

TARGETS = dict.fromkeys(CASES, 1.10)

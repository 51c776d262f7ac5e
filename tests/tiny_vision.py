"""A tiny model and a batch of every objective of images: rows of the battery, see `tests.tiny`."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, set_seed

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining

Batch = dict[str, Tensor]

NUM_ROWS = 8


def generators(num_rows: int = NUM_ROWS) -> list[torch.Generator]:
    """One generator a row, as a collator makes them."""
    return [item_generator(0, 0, index) for index in range(num_rows)]


def vit(**fields: int) -> ViTConfig:
    """Two layers, on 16 patches of images of 16 pixels."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return ViTConfig(**{**sizes, "image_size": 16, "patch_size": 4, **fields})


def images(*shape: int, seed: int = 0) -> Tensor:
    """Normalised pixels of `NUM_ROWS` images."""
    return torch.randn(NUM_ROWS, *shape, generator=item_generator(0, 0, seed))


def simclr() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=vit(), projection_size=16, temperature=0.5))
    return model, {"pixel_values": images(2, 3, 16, 16)}


VISION: dict[str, Callable[[], tuple[PreTrainedModel, Batch]]] = {
    "simclr": simclr,
}

"""A tiny model and a batch of every objective of images: rows of the battery, see `tests.tiny`."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import ImageGPTConfig, PreTrainedModel, ViTConfig, set_seed

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.vision.barlow_twins import BarlowTwinsConfig, BarlowTwinsForPreTraining
from hf_ssl.modeling.vision.beit import BeitForPreTraining, BeitPreTrainingConfig
from hf_ssl.modeling.vision.byol import BYOLConfig, BYOLForPreTraining
from hf_ssl.modeling.vision.context_prediction import ContextPredictionConfig, ContextPredictionForPreTraining
from hf_ssl.modeling.vision.data2vec_vision import Data2VecVisionForPreTraining, Data2VecVisionPreTrainingConfig
from hf_ssl.modeling.vision.deepcluster import DeepClusterConfig, DeepClusterForPreTraining
from hf_ssl.modeling.vision.deepcluster_v2 import DeepClusterV2Config, DeepClusterV2ForPreTraining
from hf_ssl.modeling.vision.dino import DINOConfig, DINOForPreTraining
from hf_ssl.modeling.vision.ibot import IBOTConfig, IBOTForPreTraining
from hf_ssl.modeling.vision.igpt import IGPTConfig, IGPTForPreTraining
from hf_ssl.modeling.vision.ijepa import IJepaForPreTraining, IJepaPreTrainingConfig
from hf_ssl.modeling.vision.jigsaw import JigsawConfig, JigsawForPreTraining
from hf_ssl.modeling.vision.mae import MAEConfig, MAEForPreTraining
from hf_ssl.modeling.vision.masked_patch import MaskedPatchConfig, MaskedPatchForPreTraining
from hf_ssl.modeling.vision.moco import MoCoConfig, MoCoForPreTraining
from hf_ssl.modeling.vision.moco_v3 import MoCoV3Config, MoCoV3ForPreTraining
from hf_ssl.modeling.vision.nnclr import NNCLRConfig, NNCLRForPreTraining
from hf_ssl.modeling.vision.patch_codebook import PatchCodebookConfig
from hf_ssl.modeling.vision.rotation import RotationConfig, RotationForPreTraining
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.modeling.vision.simmim import SimMIMConfig, SimMIMForPreTraining
from hf_ssl.modeling.vision.simsiam import SimSiamConfig, SimSiamForPreTraining
from hf_ssl.modeling.vision.swav import SwAVConfig, SwAVForPreTraining
from hf_ssl.modeling.vision.vicreg import VICRegConfig, VICRegForPreTraining

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


def over_one_batch(batch: Batch, compute: Callable[[Batch], Tensor], *, augmented: bool) -> Tensor:
    """[`OverItems`] where the training items are one batch; a plain item is the first of its views."""
    views = batch["pixel_values"]
    return compute(batch if augmented else {"pixel_values": views[:, 0] if views.dim() == 5 else views})


def rotation() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    return RotationForPreTraining(RotationConfig(encoder_config=vit())), {"pixel_values": images(3, 16, 16)}


def context_prediction() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = ContextPredictionConfig(
        encoder_config=vit(image_size=36),
        patch_size=8,
        patch_jitter=2,
        pixelation_probability=0,
        head_hidden_size=32,
        head_dropout=0,
    )
    batch = ContextPredictionForPreTraining.draw_inputs(config, {"pixel_values": images(3, 36, 36)}, generators())
    return ContextPredictionForPreTraining(config), batch


def jigsaw() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = JigsawConfig(
        encoder_config=vit(image_size=36),
        num_permutations=12,
        patch_size=8,
        patch_jitter=2,
        channel_jitter=1,
        tile_size=16,
        head_hidden_size=32,
        head_dropout=0,
    )
    batch = JigsawForPreTraining.draw_inputs(config, {"pixel_values": images(3, 36, 36)}, generators())
    return JigsawForPreTraining(config), batch


def simclr() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=vit(), projection_size=16, temperature=0.5))
    return model, {"pixel_values": images(2, 3, 16, 16)}


def moco() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = MoCoConfig(encoder_config=vit(), projection_size=16, temperature=0.2, momentum=0.9, queue_size=32)
    batch = {"pixel_values": images(2, 3, 16, 16)}
    return MoCoForPreTraining(config), MoCoForPreTraining.draw_inputs(config, batch, generators())


def moco_v3() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = MoCoV3Config(encoder_config=vit(), mlp_hidden_size=32, projection_size=16, momentum=0.9)
    return MoCoV3ForPreTraining(config), {"pixel_values": images(2, 3, 16, 16)}


def nnclr() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    sizes = {"projection_hidden_size": 32, "projection_size": 16, "prediction_hidden_size": 32, "queue_size": 64}
    model = NNCLRForPreTraining(NNCLRConfig(encoder_config=vit(), **sizes))
    return model, {"pixel_values": images(2, 3, 16, 16)}


def swav() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    sizes = {"projection_hidden_size": 32, "projection_size": 16, "num_prototypes": 12, "queue_size": 32}
    shares = {"queue_start_share": 0.2, "freeze_prototypes_share": 0.1}
    model = SwAVForPreTraining(SwAVConfig(encoder_config=vit(), **sizes, **shares))
    return model, {"pixel_values": images(2, 3, 16, 16), "local_pixel_values": images(2, 3, 8, 8, seed=1)}


def deepcluster() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = DeepClusterConfig(encoder_config=vit(), num_clusters=5, num_components=16, num_items=NUM_ROWS)
    model, batch = DeepClusterForPreTraining(config), {"pixel_values": images(3, 16, 16)}
    model.start_epoch(0, partial(over_one_batch, batch), item_generator(0, 0, NUM_ROWS))
    return model, {**batch, "item_indices": torch.arange(NUM_ROWS)}


def deepcluster_v2() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    sizes = {"projection_hidden_size": 32, "projection_size": 16, "num_prototypes": [6, 5, 5], "num_items": NUM_ROWS}
    model = DeepClusterV2ForPreTraining(DeepClusterV2Config(encoder_config=vit(), **sizes))
    batch = {"pixel_values": images(2, 3, 16, 16), "local_pixel_values": images(1, 3, 8, 8, seed=1)}
    model.start_epoch(0, partial(over_one_batch, batch), item_generator(0, 0, NUM_ROWS))
    return model, {**batch, "item_indices": torch.arange(NUM_ROWS)}


def byol() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    sizes = {"projection_hidden_size": 32, "projection_size": 16, "prediction_hidden_size": 32}
    model = BYOLForPreTraining(BYOLConfig(encoder_config=vit(), **sizes))
    return model, {"pixel_values": images(2, 3, 16, 16)}


def simsiam() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = SimSiamConfig(encoder_config=vit(), projection_size=32, prediction_hidden_size=8)
    return SimSiamForPreTraining(config), {"pixel_values": images(2, 3, 16, 16)}


def barlow_twins() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = BarlowTwinsConfig(encoder_config=vit(), projection_hidden_size=32, projection_size=16)
    return BarlowTwinsForPreTraining(config), {"pixel_values": images(2, 3, 16, 16)}


def vicreg() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = VICRegConfig(encoder_config=vit(), projection_hidden_size=32, projection_size=16)
    return VICRegForPreTraining(config), {"pixel_values": images(2, 3, 16, 16)}


def mae() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = MAEConfig(
        encoder_config=vit(),
        mask_ratio=0.5,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )
    batch = {"pixel_values": images(3, 16, 16)}
    return MAEForPreTraining(config), MAEForPreTraining.draw_inputs(config, batch, generators())


def dino() -> tuple[PreTrainedModel, Batch]:
    """After a first step of the centre, without which all images have the same target; the low temperature of the
    teacher keeps the entropy of the targets, below which the loss cannot come, far below the first loss.
    """
    set_seed(0)
    config = DINOConfig(
        encoder_config=vit(),
        num_prototypes=32,
        head_hidden_size=32,
        bottleneck_size=16,
        teacher_temperature=0.01,
        final_teacher_temperature=0.02,
        centre_decay=0.0,
    )
    batch = {"pixel_values": images(2, 3, 16, 16), "local_pixel_values": images(2, 3, 8, 8, seed=1)}
    model = DINOForPreTraining(config)
    model(**batch)
    model.sharpen.commit(progress=0.0)
    return model, batch


def simmim() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = SimMIMConfig(encoder_config=vit(), mask_patch_size=8, mask_ratio=0.5)
    batch = {"pixel_values": images(3, 16, 16)}
    return SimMIMForPreTraining(config), SimMIMForPreTraining.draw_inputs(config, batch, generators())


def masked_patch() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = MaskedPatchConfig(encoder_config=vit())
    batch = {"pixel_values": images(3, 16, 16)}
    return MaskedPatchForPreTraining(config), MaskedPatchForPreTraining.draw_inputs(config, batch, generators())


def data2vec_vision() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    config = Data2VecVisionPreTrainingConfig(encoder_config=vit(), average_top_k_layers=2, min_mask_block=2)
    model = Data2VecVisionForPreTraining(config)
    return model, model.draw_inputs(config, {"pixel_values": images(3, 16, 16)}, generators())


def ijepa() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    predictor = {
        "predictor_hidden_size": 32,
        "predictor_num_hidden_layers": 2,
        "predictor_num_attention_heads": 2,
        "predictor_intermediate_size": 64,
    }
    config = IJepaPreTrainingConfig(encoder_config=vit(), **predictor)
    model = IJepaForPreTraining(config)
    return model, model.draw_inputs(config, {"pixel_values": images(3, 16, 16)}, generators())


def igpt() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = ImageGPTConfig(
        vocab_size=13, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model = IGPTForPreTraining(IGPTConfig(encoder_config=encoder))
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)  # at zero, no gradient reaches the encoder in the first step
    return model, {"input_ids": torch.randint(12, (NUM_ROWS, 16), generator=item_generator(0, 0, 0))}


def ibot() -> tuple[PreTrainedModel, Batch]:
    """After a first step of the centres, and with low temperatures of the teacher, as `dino`."""
    set_seed(0)
    config = IBOTConfig(
        encoder_config=vit(),
        num_prototypes=32,
        head_hidden_size=32,
        bottleneck_size=16,
        teacher_temperature=0.01,
        final_teacher_temperature=0.02,
        patch_temperature=0.01,
        final_patch_temperature=0.02,
        centre_decay=0.0,
    )
    views = {"pixel_values": images(2, 3, 16, 16), "local_pixel_values": images(2, 3, 8, 8, seed=1)}
    batch = IBOTForPreTraining.draw_inputs(config, views, generators())
    model = IBOTForPreTraining(config)
    model(**batch)
    model.after_optimizer_step(progress=0.0)
    return model, batch


def beit() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    tokenizer = PatchCodebookConfig(patch_size=4, num_embeddings=16)
    config = BeitPreTrainingConfig(
        encoder_config=vit(), tokenizer_config=tokenizer, max_masked_patches=6, min_block_patches=2
    )
    batch = {"pixel_values": images(3, 16, 16)}
    return BeitForPreTraining(config), BeitForPreTraining.draw_inputs(config, batch, generators())


VISION: dict[str, Callable[[], tuple[PreTrainedModel, Batch]]] = {
    "rotation": rotation,
    "context_prediction": context_prediction,
    "jigsaw": jigsaw,
    "simclr": simclr,
    "mae": mae,
    "beit": beit,
    "simmim": simmim,
    "masked_patch": masked_patch,
    "moco": moco,
    "moco_v3": moco_v3,
    "nnclr": nnclr,
    "swav": swav,
    "deepcluster": deepcluster,
    "deepcluster_v2": deepcluster_v2,
    "byol": byol,
    "simsiam": simsiam,
    "dino": dino,
    "ibot": ibot,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "data2vec_vision": data2vec_vision,
    "ijepa": ijepa,
    "igpt": igpt,
}

"""Tiny teachers of all three modalities, saved, and batches for them; without dropout."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, BertConfig, HubertConfig, ViTConfig, set_seed

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.distillation.student import DistillationModel
from tests.families import BERT, IMAGES, SPEECH, TEXT, VIT, WAVEFORM

Batch = dict[str, Tensor]

DEEP = {"num_hidden_layers": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
MASK = 4
ROWS = 3


def bert_teacher(folder: Path) -> Path:
    """A BERT of 4 layers with its head of masked language modelling."""
    set_seed(0)
    model = AutoModelForMaskedLM.from_config(BertConfig(**{**BERT, **DEEP, "initializer_range": 0.3}))
    model.save_pretrained(folder)
    return folder


def hubert_teacher(folder: Path) -> Path:
    set_seed(0)
    fields = {**WAVEFORM, **NO_DROPOUT, "num_hidden_layers": 4, "layerdrop": 0.0, "feat_extract_norm": "layer"}
    fields["initializer_range"] = 0.3
    AutoModel.from_config(HubertConfig(**fields, do_stable_layer_norm=True)).save_pretrained(folder)
    return folder


def vit_teacher(folder: Path) -> Path:
    set_seed(0)
    AutoModel.from_config(
        ViTConfig(**{**VIT, **DEEP, "initializer_range": 0.3}), add_pooling_layer=False
    ).save_pretrained(folder)
    return folder


def texts() -> Batch:
    """Three texts of 9, 7 and 5 tokens, a third of them masked."""
    set_seed(1)
    lengths = torch.tensor([9, 7, 5])
    attention_mask = (torch.arange(9) < lengths[:, None]).long()
    input_ids = torch.randint(5, 40, (ROWS, 9)) * attention_mask
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "special_tokens_mask": ~attention_mask.bool(),
        "word_starts": attention_mask.bool(),
    }
    config = DistillationModel.config_class(mlm_probability=0.3, mask_token_id=MASK)
    config.encoder_config.vocab_size = 40
    return DistillationModel.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(ROWS)])


def recordings() -> Batch:
    """Three recordings of 1,600, 1,200 and 900 samples."""
    set_seed(1)
    attention_mask = (torch.arange(1600) < torch.tensor([1600, 1200, 900])[:, None]).long()
    return {"input_values": torch.randn(ROWS, 1600) * attention_mask, "attention_mask": attention_mask}


def images() -> Batch:
    """Two views each of three images."""
    set_seed(1)
    return {"pixel_values": torch.randn(ROWS, 2, 3, 16, 16)}


TEACHERS = {"text": bert_teacher, "speech": hubert_teacher, "vision": vit_teacher}
BATCHES = {"text": texts, "speech": recordings, "vision": images}

FAMILIES = {**IMAGES, **SPEECH, **TEXT}


def family_encoder(family: str, num_layers: int = 4):
    """A tiny encoder of any family, in evaluation mode; of stages, as many as the table says."""
    set_seed(0)
    fields = dict(FAMILIES[family])
    name = "n_layers" if family == "distilbert" else "num_hidden_layers"
    if name in fields:
        fields[name] = num_layers
    return AutoModel.from_config(AutoConfig.for_model(family, **fields)).eval()

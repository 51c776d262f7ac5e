"""A tiny model and a batch of every objective: the rows of the battery.

Without dropout, so that runs which should be equal can be compared; a test that is about dropout turns it on.
"""

from collections.abc import Callable

import torch
from transformers import (
    BertConfig,
    Data2VecAudioConfig,
    HubertConfig,
    PreTrainedModel,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    set_seed,
)

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import (
    EarlyExitForAudioClassification,
    EarlyExitForCTC,
    EarlyExitForImageClassification,
    EarlyExitForSequenceClassification,
    EarlyExitForTokenClassification,
)
from hf_ssl.modeling.speech.best_rq import BestRQConfig, BestRQForPreTraining
from hf_ssl.modeling.speech.data2vec2_audio import Data2Vec2AudioForPreTraining, Data2Vec2AudioPreTrainingConfig
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig
from hf_ssl.modeling.speech.data2vec_audio import Data2VecAudioForPreTraining, Data2VecAudioPreTrainingConfig
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingConfig, Wav2Vec2PreTrainingModel
from hf_ssl.modeling.text.bert import BertPreTrainingConfig, BertPreTrainingModel
from tests.tiny_vision import NUM_ROWS, VISION, Batch, generators


def hubert() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
    )
    config = HubertPreTrainingConfig(
        encoder_config=encoder, num_clusters=12, label_rate=50, final_dim=16, mask_time_length=4, alpha=0.7
    )
    batch = {
        "input_values": torch.randn(NUM_ROWS, 8000, generator=item_generator(0, 0, 0)),
        "units": torch.randint(12, (NUM_ROWS, 25), generator=item_generator(0, 0, 1)),
    }
    return HubertForPreTraining(config), HubertForPreTraining.draw_inputs(config, batch, generators())


def wav2vec2() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
    )
    config = Wav2Vec2PreTrainingConfig(
        encoder_config=encoder,
        num_codevectors_per_group=12,
        codevector_dim=16,
        proj_codevector_dim=16,
        num_negatives=8,
        feat_quantizer_dropout=0.0,
        mask_time_length=4,
    )
    batch = {"input_values": torch.randn(NUM_ROWS, 8000, generator=item_generator(0, 0, 0))}
    return Wav2Vec2PreTrainingModel(config), Wav2Vec2PreTrainingModel.draw_inputs(config, batch, generators())


def data2vec_audio() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = Data2VecAudioConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        # One positional convolution: into a second one padding leaks, in transformers as in the reference.
        num_conv_pos_embeddings=1,
        conv_pos_kernel_size=15,
        num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
    )
    config = Data2VecAudioPreTrainingConfig(encoder_config=encoder, average_top_k_layers=2, mask_time_length=4)
    batch = {"input_values": torch.randn(NUM_ROWS, 8000, generator=item_generator(0, 0, 0))}
    return Data2VecAudioForPreTraining(config), Data2VecAudioForPreTraining.draw_inputs(config, batch, generators())


def data2vec2_audio() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = Data2Vec2AudioConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=2,
        conv_pos_kernel_size=9,
        num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
    )
    config = Data2Vec2AudioPreTrainingConfig(
        encoder_config=encoder,
        num_masks=3,
        average_top_k_layers=2,
        decoder_dim=16,
        decoder_layers=2,
        decoder_groups=4,
        decoder_input_dropout=0.0,
    )
    batch = {"input_values": torch.randn(NUM_ROWS, 8000, generator=item_generator(0, 0, 0))}
    return Data2Vec2AudioForPreTraining(config), Data2Vec2AudioForPreTraining.draw_inputs(config, batch, generators())


def best_rq() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = Wav2Vec2BertConfig(
        feature_projection_input_dim=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_depthwise_kernel_size=5,
        conformer_conv_dropout=0.0,
        layerdrop=0.0,
    )
    config = BestRQConfig(
        encoder_config=encoder, codebook_size=12, num_codebooks=2, mask_probability=0.05, mask_length=10
    )
    batch = {"input_features": torch.randn(NUM_ROWS, 25, 16, generator=item_generator(0, 0, 0))}
    return BestRQForPreTraining(config), BestRQForPreTraining.draw_inputs(config, batch, generators())


def bert() -> tuple[PreTrainedModel, Batch]:
    set_seed(0)
    encoder = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = BertPreTrainingConfig(encoder_config=encoder, mask_token_id=4)
    length, lengths = 20, torch.arange(NUM_ROWS) + 13
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    input_ids = torch.randint(5, 64, (NUM_ROWS, length), generator=item_generator(0, 0, 0)) * attention_mask
    special = attention_mask == 0
    special[:, 0] = special[:, 8] = True
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": (torch.arange(length) > 8).long() * attention_mask,
        "next_sentence_label": torch.arange(NUM_ROWS) % 2,
        "special_tokens_mask": special,
        "word_starts": torch.ones_like(special),
    }
    return BertPreTrainingModel(config), BertPreTrainingModel.draw_inputs(config, batch, generators())


TINY: dict[str, Callable[[], tuple[PreTrainedModel, Batch]]] = {
    **VISION,
    "hubert": hubert,
    "wav2vec2": wav2vec2,
    "data2vec_audio": data2vec_audio,
    "data2vec2_audio": data2vec2_audio,
    "best_rq": best_rq,
    "bert": bert,
}

OWN_ENCODERS = ("data2vec2_audio",)
"""Objectives on an encoder that transformers does not have: its code is exported beside its weights."""

OVER_A_BATCH: dict[str, dict[str, float]] = {"wav2vec2": {"diversity_loss_weight": 0.0}}
"""What leaves out of a loss the term that is defined over a batch of samples, where the others count predictions.
Its gradient depends on how the batch is cut into micro-batches; that of the others must not.
"""

WITH_EXITS = {
    EarlyExitForSequenceClassification: "bert",
    EarlyExitForTokenClassification: "bert",
    EarlyExitForImageClassification: "simclr",
    EarlyExitForAudioClassification: "hubert",
    EarlyExitForCTC: "hubert",
}
"""The models with exits, and the objective whose encoder they have here."""


def with_exits(model_class: type[PreTrainedModel]) -> tuple[PreTrainedModel, Batch]:
    """A tiny model with exits and a batch with labels."""
    objective, batch = TINY[WITH_EXITS[model_class]]()
    names = ("input_ids", "attention_mask", "pixel_values", "input_values")
    inputs = {name: batch[name] for name in names if name in batch}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"][:, 0]  # of two views, one
    labels_a_row = {EarlyExitForTokenClassification: (20,), EarlyExitForCTC: (2,)}.get(model_class, ())
    labels = torch.randint(1, 3, (NUM_ROWS, *labels_a_row), generator=item_generator(0, 0, 0))
    encoder = objective.config.encoder_config.to_dict()
    if "mask_time_prob" in encoder:
        encoder["mask_time_prob"] = 0.0  # no mask embedding, which nothing would train
    config = EarlyExitConfig(encoder_config=encoder, num_labels=3, classifier_dropout=0.0)
    return model_class(config), inputs | {"labels": labels}

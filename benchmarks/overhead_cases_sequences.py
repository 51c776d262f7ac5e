"""Rows of `objective_overhead.py`: objectives of speech and text, with the published base sizes."""

from collections.abc import Callable

import torch
from overhead_case import Case
from transformers import (
    BertConfig,
    Data2VecAudioConfig,
    HubertConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
)

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.speech.best_rq import BestRQConfig, BestRQForPreTraining
from hf_ssl.modeling.speech.data2vec2_audio import Data2Vec2AudioForPreTraining, Data2Vec2AudioPreTrainingConfig
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig
from hf_ssl.modeling.speech.data2vec_audio import Data2VecAudioForPreTraining, Data2VecAudioPreTrainingConfig
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingModel
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig
from hf_ssl.modeling.text.bert import BertPreTrainingConfig, BertPreTrainingModel


def bert() -> Case:
    """BERT base, 8 sequences of 128 tokens, at most 20 predictions each."""
    config = BertPreTrainingConfig(encoder_config=BertConfig(), max_predictions_per_sequence=20)
    rows, length = 8, 128
    batch = {
        "input_ids": torch.randint(1000, 30_000, (rows, length)),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "token_type_ids": (torch.arange(length) > 60).long().expand(rows, -1),
        "next_sentence_label": torch.arange(rows) % 2,
        "special_tokens_mask": torch.zeros(rows, length, dtype=torch.bool),
        "word_starts": torch.ones(rows, length, dtype=torch.bool),
    }
    drawn = BertPreTrainingModel.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(rows)])
    names = ("input_ids", "attention_mask", "token_type_ids")
    return Case(BertPreTrainingModel(config), drawn, {name: drawn[name] for name in names})


def hubert() -> Case:
    """HuBERT base with 500 clusters, 2 recordings of 6 seconds."""
    config = HubertPreTrainingConfig(encoder_config=HubertConfig(layerdrop=0.0))
    rows, seconds = 2, 6
    batch = {
        "input_values": torch.randn(rows, 16_000 * seconds),
        "units": torch.randint(500, (rows, 50 * seconds)),
    }
    drawn = HubertForPreTraining.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(rows)])
    return Case(HubertForPreTraining(config), drawn, {"input_values": drawn["input_values"]})


def best_rq() -> Case:
    """A Conformer of 12 layers of 576 with 8192 codes, 2 recordings of 6 seconds."""
    encoder = Wav2Vec2BertConfig(
        hidden_size=576, num_hidden_layers=12, num_attention_heads=8, intermediate_size=2048, layerdrop=0.0
    )
    config = BestRQConfig(encoder_config=encoder, quantizer_stack=4)
    batch = {"input_features": torch.randn(2, 300, 160)}
    drawn = BestRQForPreTraining.draw_inputs(config, batch, [item_generator(0, 0, row) for row in range(2)])
    return Case(BestRQForPreTraining(config), drawn, batch)


def data2vec_audio() -> Case:
    """data2vec base, whose teacher's pass is half a step, 2 recordings of 6 seconds."""
    config = Data2VecAudioPreTrainingConfig(encoder_config=Data2VecAudioConfig(layerdrop=0.0))
    bare = {"input_values": torch.randn(2, 16_000 * 6)}
    drawn = Data2VecAudioForPreTraining.draw_inputs(config, bare, [item_generator(0, 0, row) for row in range(2)])
    return Case(Data2VecAudioForPreTraining(config), drawn, bare)


def data2vec2_audio() -> Case:
    """data2vec 2.0 base, a recording of 6 seconds with its 8 masks.

    The bare encoder reads the same visible frames of the same clones. The teacher's pass over the whole recording is a
    twelfth of that: all frames once forwards, over half of them 8 times forwards and backwards.
    """
    config = Data2Vec2AudioPreTrainingConfig(encoder_config=Data2Vec2AudioConfig(layerdrop=0.0))
    waveforms = torch.randn(1, 16_000 * 6)
    drawn = Data2Vec2AudioForPreTraining.draw_inputs(config, {"input_values": waveforms}, [item_generator(0, 0, 0)])
    bare = {"input_values": waveforms, "positions": drawn["visible_positions"].flatten(0, 1)}
    return Case(Data2Vec2AudioForPreTraining(config), drawn, bare)


def wav2vec2() -> Case:
    """wav2vec 2.0 base with 2 × 320 codes and 100 negatives, 2 recordings of 6 seconds."""
    config = Wav2Vec2PreTrainingConfig(encoder_config=Wav2Vec2Config(layerdrop=0.0))
    bare = {"input_values": torch.randn(2, 16_000 * 6)}
    drawn = Wav2Vec2PreTrainingModel.draw_inputs(config, bare, [item_generator(0, 0, row) for row in range(2)])
    return Case(Wav2Vec2PreTrainingModel(config), drawn, bare)


CASES: dict[str, Callable[[], Case]] = {
    "bert": bert,
    "best_rq": best_rq,
    "data2vec_audio": data2vec_audio,
    "data2vec2_audio": data2vec2_audio,
    "hubert": hubert,
    "wav2vec2": wav2vec2,
}

TARGETS = {
    "bert": 1.15,
    "best_rq": 1.15,
    "data2vec_audio": 1.6,
    "data2vec2_audio": 1.2,
    "hubert": 1.15,
    "wav2vec2": 1.15,
}

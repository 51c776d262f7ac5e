"""Tiny encoders as plain checkpoints with their preprocessors, as a pretraining run leaves them. Without dropout."""

from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    BertConfig,
    HubertConfig,
    PreTrainedConfig,
    ViTConfig,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    set_seed,
)

from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.data.encoder_inputs import fresh_processor
from hf_ssl.data.loading import load_splits
from hf_ssl.data.tokenization import train_tokenizer
from hf_ssl.modeling.blocks.pretrained import Processor

TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

_SUBSAMPLING = {
    **TRANSFORMER,
    "num_mel_bins": 8,
    "subsampling_conv_channels": 8,
    "dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
}
MEL_ENCODERS: dict[str, dict[str, Any]] = {
    "wav2vec2-bert": {
        **TRANSFORMER,
        "feature_projection_input_dim": 16,
        "conv_depthwise_kernel_size": 5,
        "conformer_conv_dropout": 0.0,
        "layerdrop": 0.0,
    },
    "parakeet_encoder": {**_SUBSAMPLING, "subsampling_factor": 4},
    "nemotron_asr_streaming_encoder": {**_SUBSAMPLING, "subsampling_factor": 4},
    "lasr_encoder": {**_SUBSAMPLING, "conv_kernel_size": 8},
}
"""Config values of tiny encoders of mel frames of 8 bands, by `model_type`."""


def save_image_encoder(folder: Path) -> Path:
    config = ViTConfig(**TRANSFORMER, image_size=32, patch_size=8)
    return _save(config, ViTImageProcessorPil(size={"height": 32, "width": 32}), folder, add_pooling_layer=False)


def save_text_encoder(folder: Path) -> Path:
    texts = load_splits(TextDataArguments(path="sample:glosses", max_train_items=2000), "text")["train"]["text"]
    tokenizer = train_tokenizer("wordpiece", texts, vocab_size=500, lowercase=True, max_length=64)
    config = BertConfig(
        **TRANSFORMER,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return _save(config, tokenizer, folder, add_pooling_layer=False)


def save_speech_encoder(folder: Path, feat_extract_norm: str = "layer", do_stable_layer_norm: bool = True) -> Path:
    config = HubertConfig(
        **TRANSFORMER,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        num_feat_extract_layers=3,
        feat_extract_norm=feat_extract_norm,
        do_stable_layer_norm=do_stable_layer_norm,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=32,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
    )
    return _save(config, Wav2Vec2FeatureExtractor(return_attention_mask=True), folder)


def save_mel_encoder(folder: Path, model_type: str, sampling_rate: int = 16_000) -> Path:
    config = CONFIG_MAPPING[model_type](**MEL_ENCODERS[model_type])
    return _save(config, fresh_processor(sampling_rate, config), folder)


def _save(config: PreTrainedConfig, processor: Processor, folder: Path, **options: bool) -> Path:
    set_seed(0)
    AutoModel.from_config(config, **options).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

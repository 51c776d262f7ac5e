"""A tiny classification model of every family of encoders."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = TRANSFORMER | {"image_size": 16, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
WAVEFORM = TRANSFORMER | {
    "conv_dim": [8, 8],
    "conv_stride": [8, 8],
    "conv_kernel": [10, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
WITHOUT_CLASSIFIER = {"data2vec2-audio"}
"""Encoders that only hf_ssl has: the battery adapts them."""
BERT = TRANSFORMER | {"vocab_size": 40, "max_position_embeddings": 24}

IMAGES = {
    "beit": VIT,
    "data2vec-vision": VIT,
    # two classification models share DeiT's config; a checkpoint says which one by its architecture
    "deit": VIT | {"architectures": ["DeiTModel"]},
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "ijepa": VIT,
    "swin": SWIN,
    "swinv2": SWIN,
    "vit": VIT,
    "vit_msn": VIT,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
SPEECH = {
    "audio-spectrogram-transformer": TRANSFORMER | {"max_length": 32, "num_mel_bins": 16},
    "data2vec-audio": WAVEFORM,
    "hubert": WAVEFORM,
    "sew": WAVEFORM,
    "unispeech": WAVEFORM,
    "unispeech-sat": WAVEFORM,
    "wav2vec2": WAVEFORM,
    "wav2vec2-bert": TRANSFORMER | {"feature_projection_input_dim": 20},
    "wav2vec2-conformer": WAVEFORM,
    "wavlm": WAVEFORM,
}
SPEECH_INPUTS = {
    "audio-spectrogram-transformer": ("input_values", (2, 32, 16)),
    "wav2vec2-bert": ("input_features", (2, 30, 20)),
}
TEXT = {
    "albert": BERT | {"embedding_size": 16},
    "bert": BERT,
    "camembert": BERT,
    "data2vec-text": BERT,
    "deberta": BERT,
    "deberta-v2": BERT,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 40},
    "electra": BERT | {"embedding_size": 16},
    "ernie": BERT,
    "modernbert": BERT
    | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "mpnet": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
}


def classifier(family: str, padded: bool = False) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A tiny classification model of the family, in evaluation mode, and inputs for it.

    `padded`: texts and recordings come with an attention mask, and the second of the two is the shorter.
    """
    torch.manual_seed(0)
    if family in IMAGES:
        auto_model, fields, inputs = (
            AutoModelForImageClassification,
            IMAGES,
            {"pixel_values": torch.randn(2, 3, 16, 16)},
        )
    elif family in SPEECH:
        name, shape = SPEECH_INPUTS.get(family, ("input_values", (2, 1600)))
        auto_model, fields, inputs = AutoModelForAudioClassification, SPEECH, {name: torch.randn(shape)}
    else:
        auto_model, fields, inputs = (
            AutoModelForSequenceClassification,
            TEXT,
            {"input_ids": torch.randint(5, 40, (2, 7))},
        )
    model = auto_model.from_config(AutoConfig.for_model(family, num_labels=3, **fields[family])).eval()
    # The spectrogram transformer reads clips of one length.
    takes_mask = family != "audio-spectrogram-transformer"
    return model, inputs | (padding(inputs) if padded and takes_mask else {})


def padding(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The attention mask of inputs whose second row is about half as long as the first; of images none."""
    if "pixel_values" in inputs:
        return {}
    (values,) = inputs.values()
    mask = torch.ones(values.shape[:2], dtype=torch.long)
    mask[1, (mask.shape[1] + 1) // 2 :] = 0
    return {"attention_mask": mask}

"""The settings of an encoder: fairseq's ↔ a transformers config."""

from typing import Any

from transformers import Data2VecAudioConfig, HubertConfig, PreTrainedConfig, Wav2Vec2Config

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.conv_layers import format_conv_layers, parse_conv_layers
from hf_ssl.hub.conversion.settings import Settings

CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "wav2vec2": Wav2Vec2Config,
    "hubert": HubertConfig,
    "data2vec_audio": Data2VecAudioConfig,
}

FIELDS = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "encoder_layerdrop": "layerdrop",
    "conv_bias": "conv_bias",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
}
"""Settings that both have under another name."""

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "gelu_accurate": "gelu_new"}


def to_encoder_config(settings: Settings) -> PreTrainedConfig:
    """The config of the encoder that a fairseq checkpoint holds; SpecAugment is left as transformers has it.

    Raises:
        InputError: for settings with which fairseq builds an encoder that transformers does not have.
    """
    model = settings.model
    _refuse_other_encoders(settings)
    layers = parse_conv_layers(model["conv_feature_layers"])
    fields = {ours: model[theirs] for theirs, ours in FIELDS.items()} | {
        "hidden_act": ACTIVATIONS[model["activation_fn"]],
        "conv_dim": [channels for channels, _, _ in layers],
        "conv_kernel": [kernel for _, kernel, _ in layers],
        "conv_stride": [stride for _, _, stride in layers],
    }
    if settings.family == "data2vec_audio":
        depth = model["pos_conv_depth"]
        # `conv_pos` frames are shared out among the convolutions.
        return Data2VecAudioConfig(
            **fields, num_conv_pos_embeddings=depth, conv_pos_kernel_size=max(3, model["conv_pos"] // depth)
        )
    fields |= {
        "feat_extract_norm": "group" if model["extractor_mode"] == "default" else "layer",
        "do_stable_layer_norm": model["layer_norm_first"],
        "num_conv_pos_embeddings": model["conv_pos"],
    }
    if settings.family == "hubert":
        return HubertConfig(**fields, conv_pos_batch_norm=model["conv_pos_batch_norm"])
    return Wav2Vec2Config(**fields)


def from_encoder_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings with which fairseq builds an encoder.

    Raises:
        InputError: for an encoder that fairseq cannot build.
    """
    _refuse_other_configs(config)
    layers = list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True))
    model = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()} | {
        "layer_type": "transformer",
        "activation_fn": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.hidden_act),
        "conv_feature_layers": format_conv_layers(layers),
    }
    if config.model_type == "data2vec-audio":
        depth = config.num_conv_pos_embeddings
        return model | {
            "extractor_mode": "layer_norm",
            "layer_norm_first": False,
            "pos_conv_depth": depth,
            "conv_pos": config.conv_pos_kernel_size * depth,
        }
    model |= {
        "extractor_mode": "default" if config.feat_extract_norm == "group" else "layer_norm",
        "layer_norm_first": config.do_stable_layer_norm,
        "conv_pos": config.num_conv_pos_embeddings,
    }
    return model | ({"conv_pos_batch_norm": config.conv_pos_batch_norm} if config.model_type == "hubert" else {})


def _refuse_other_encoders(settings: Settings) -> None:
    model, data2vec = settings.model, settings.family == "data2vec_audio"
    unlike = {
        "layer_type": model["layer_type"] != "transformer",
        "activation_fn": model["activation_fn"] not in ACTIVATIONS,
        "quantize_input": model["quantize_input"],
        "crop_seq_to_multiple": model["crop_seq_to_multiple"] > 1,
        "extractor_mode": model["extractor_mode"] not in (("layer_norm",) if data2vec else ("default", "layer_norm")),
        "layer_norm_first": data2vec and model["layer_norm_first"],
        "pos_conv_depth": (model["pos_conv_depth"] > 1) != data2vec,
        "conv_pos_batch_norm": model["conv_pos_batch_norm"] and settings.family != "hubert",
        # Equal dimensions: fairseq then puts no projection between CNN and Transformer.
        "encoder_embed_dim": not data2vec
        and parse_conv_layers(model["conv_feature_layers"])[-1][0] == model["encoder_embed_dim"],
    }
    for name in unlike:
        if unlike[name]:
            raise InputError(
                f"With {name} = {model[name]!r}, fairseq builds a {settings.family} encoder that transformers does "
                "not have; it is not converted."
            )


def _refuse_other_configs(config: PreTrainedConfig) -> None:
    fields = config.to_dict()
    expected: dict[str, Any] = {"feat_extract_activation": "gelu", "layer_norm_eps": 1e-5, "add_adapter": False}
    expected |= {"adapter_attn_dim": None, "feat_proj_layer_norm": True}
    for name, value in expected.items():
        if fields.get(name, value) != value:
            raise InputError(f"fairseq has no encoder with {name} = {fields[name]!r} (it needs {value!r}).")
    if config.hidden_act not in ACTIVATIONS.values():
        raise InputError(
            f"The encoder's hidden_act is {config.hidden_act!r}; fairseq has {', '.join(ACTIVATIONS.values())}."
        )
    if config.model_type != "data2vec-audio" and config.conv_dim[-1] == config.hidden_size:
        raise InputError(
            f"CNN and Transformer both have {config.hidden_size} dimensions; fairseq then has no projection between "
            "them, but this encoder has one."
        )

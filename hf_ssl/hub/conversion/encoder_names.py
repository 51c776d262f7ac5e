"""How fairseq and transformers name the same parameters of an encoder."""

from transformers import PreTrainedConfig

Names = dict[str, str]
"""fairseq's name of each parameter → its name here; one to one."""

LAYER = {
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.out_proj": "attention.out_proj",
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}
"""The modules of a Transformer layer, in the order of fairseq's state dict."""

WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
"""A weight-normalised weight's length and direction, by PyTorch's older and newer names."""


def affine(fairseq: str, here: str) -> Names:
    """The weight and bias of a module."""
    return {f"{fairseq}.{part}": f"{here}.{part}" for part in ("weight", "bias")}


def prefixed(names: Names, fairseq: str, here: str) -> Names:
    """The names within a larger model."""
    return {fairseq + theirs: here + ours for theirs, ours in names.items()}


def encoder_names(config: PreTrainedConfig) -> Names:
    """All parameters of an encoder.

    Args:
        config (`PreTrainedConfig`): of `wav2vec2`, `hubert` or `data2vec-audio`.
    """
    return (
        {"mask_emb": "masked_spec_embed"}
        | prefixed(_cnn(config), "feature_extractor.conv_layers.", "feature_extractor.conv_layers.")
        | affine("post_extract_proj", "feature_projection.projection")
        | prefixed(transformer_names(config), "encoder.", "encoder.")
        | affine("layer_norm", "feature_projection.layer_norm")
    )


def transformer_names(config: PreTrainedConfig) -> Names:
    """The parameters of an encoder's Transformer, positional convolution included, within it."""
    return _positional_convolution(config) | layer_names(config.num_hidden_layers) | affine("layer_norm", "layer_norm")


def layer_names(num_layers: int) -> Names:
    """The parameters of the layers of a Transformer, within it."""
    names: Names = {}
    for layer in range(num_layers):
        for theirs, ours in LAYER.items():
            names |= prefixed(affine(theirs, ours), f"layers.{layer}.", f"layers.{layer}.")
    return names


def old_weight_norm(name: str) -> str:
    """A name in fairseq's own form, whichever of PyTorch's two forms of weight normalisation it has."""
    for old, new in WEIGHT_NORM.items():
        name = name.replace(new, old)
    return name


def _cnn(config: PreTrainedConfig) -> Names:
    """In fairseq, a layer is a sequence whose places are counted: the convolution, dropout, the norm, GELU."""
    layer_norms = config.model_type == "data2vec-audio" or config.feat_extract_norm == "layer"
    names: Names = {}
    for layer in range(len(config.conv_dim)):
        names |= affine(f"{layer}.0", f"{layer}.conv")
        if not config.conv_bias:
            del names[f"{layer}.0.bias"]
        if layer_norms:
            names |= affine(f"{layer}.2.1", f"{layer}.layer_norm")
        elif layer == 0:
            names |= affine("0.2", "0.layer_norm")  # over groups of one channel
    return names


def _positional_convolution(config: PreTrainedConfig) -> Names:
    if config.model_type == "data2vec-audio":  # several, each followed by a norm without parameters
        names: Names = {}
        for layer in range(config.num_conv_pos_embeddings):
            names |= affine(f"pos_conv.{layer}.0", f"pos_conv_embed.layers.{layer}.conv")
        return names
    if config.model_type == "hubert" and config.conv_pos_batch_norm:
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        norm = affine("pos_conv.0", "pos_conv_embed.batch_norm")
        norm |= {f"pos_conv.0.{name}": f"pos_conv_embed.batch_norm.{name}" for name in statistics}
        return norm | affine("pos_conv.1", "pos_conv_embed.conv")
    convolution = {"bias": "bias"} | WEIGHT_NORM
    return prefixed(convolution, "pos_conv.0.", "pos_conv_embed.conv.")

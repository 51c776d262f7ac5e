"""fairseq's speech models in evaluation mode, one step at a time, on a state dict with fairseq's names.

Written from the description of the blocks, with no module of torch.nn and no convolution of its own; slow.
"""

# B rows, S samples, T frames, C channels, D hidden size

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def features(weights: Weights, settings: dict, waveforms: Tensor) -> Tensor:
    """The CNN and its layer norm: (B, S) -> (B, T, C)."""
    hidden = waveforms[:, None]
    for i, (_, _, stride) in enumerate(settings["layers"]):
        name = f"feature_extractor.conv_layers.{i}"
        hidden = convolve(hidden, weights[f"{name}.0.weight"], weights.get(f"{name}.0.bias"), stride=stride)
        if settings["extractor_mode"] == "layer_norm":
            hidden = norm(hidden, dim=1, weight=weights[f"{name}.2.1.weight"], bias=weights[f"{name}.2.1.bias"])
        elif i == 0:  # as many groups as channels: each over its own time
            hidden = norm(hidden, dim=2)
            hidden = hidden * weights[f"{name}.2.weight"][:, None] + weights[f"{name}.2.bias"][:, None]
        hidden = gelu(hidden)
    return layer_norm(weights, "layer_norm", hidden.transpose(1, 2))


def encode(weights: Weights, settings: dict, waveforms: Tensor) -> Tensor:
    """The whole encoder: (B, S) -> (B, T, D)."""
    projected = linear(weights, "post_extract_proj", features(weights, settings, waveforms))
    inside = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
    return transformer(inside, settings, projected)[0]


def transformer(weights: Weights, settings: dict, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The Transformer, and what the feed-forward part of each layer adds to its residual."""
    hidden = hidden + positions(weights, settings, hidden)
    if not settings["layer_norm_first"]:
        hidden = layer_norm(weights, "layer_norm", hidden)
    results = []
    for i in range(settings["encoder_layers"]):
        layer = {n.removeprefix(f"layers.{i}."): w for n, w in weights.items() if n.startswith(f"layers.{i}.")}
        if settings["layer_norm_first"]:
            hidden = hidden + attend(layer, settings, layer_norm(layer, "self_attn_layer_norm", hidden))
            result = feed_forward(layer, layer_norm(layer, "final_layer_norm", hidden))
            hidden = hidden + result
        else:
            hidden = layer_norm(layer, "self_attn_layer_norm", hidden + attend(layer, settings, hidden))
            result = feed_forward(layer, hidden)
            hidden = layer_norm(layer, "final_layer_norm", hidden + result)
        results.append(result)
    return layer_norm(weights, "layer_norm", hidden) if settings["layer_norm_first"] else hidden, results


def positions(weights: Weights, settings: dict, hidden: Tensor) -> Tensor:
    """The positional convolution: one with weight norm, or several, each followed by a norm without parameters."""
    hidden, groups = hidden.transpose(1, 2), settings["conv_pos_groups"]
    if settings["pos_conv_depth"] == 1:
        direction = weights["pos_conv.0.weight_v"]
        kernels = torch.stack(  # each position of the kernel has a length of its own
            [
                weights["pos_conv.0.weight_g"][0, 0, k] * direction[:, :, k] / direction[:, :, k].square().sum().sqrt()
                for k in range(direction.shape[2])
            ],
            dim=2,
        )
        return gelu(same_length(hidden, kernels, weights["pos_conv.0.bias"], groups)).transpose(1, 2)
    for i in range(settings["pos_conv_depth"]):
        kernels, bias = weights[f"pos_conv.{i}.0.weight"], weights[f"pos_conv.{i}.0.bias"]
        hidden = gelu(norm(same_length(hidden, kernels, bias, groups), dim=1))
    return hidden.transpose(1, 2)


def same_length(hidden: Tensor, kernels: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A convolution with half a kernel of zeros on both sides; with an even kernel, the last frame is dropped."""
    half, frames = kernels.shape[2] // 2, hidden.shape[2]
    zeros = hidden.new_zeros(*hidden.shape[:2], half)
    padded = torch.cat([zeros, hidden, zeros], dim=2)
    size = hidden.shape[1] // groups
    out = []
    for group in range(groups):
        mine = slice(group * size, (group + 1) * size)
        out.append(convolve(padded[:, mine], kernels[mine], bias[mine], stride=1))
    return torch.cat(out, dim=1)[:, :, :frames]


def attend(weights: Weights, settings: dict, hidden: Tensor) -> Tensor:
    """Self-attention, one row and one head after the other."""
    heads = settings["encoder_attention_heads"]
    size = hidden.shape[2] // heads
    queries, keys, values = (linear(weights, f"self_attn.{name}_proj", hidden) for name in "qkv")
    out = torch.zeros_like(hidden)
    for row in range(len(hidden)):
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            scores = (queries[row, :, mine] / math.sqrt(size)) @ keys[row, :, mine].T
            shares = (scores - scores.max(dim=1, keepdim=True).values).exp()
            out[row, :, mine] = shares / shares.sum(dim=1, keepdim=True) @ values[row, :, mine]
    return linear(weights, "self_attn.out_proj", out)


def feed_forward(weights: Weights, hidden: Tensor) -> Tensor:
    return linear(weights, "fc2", gelu(linear(weights, "fc1", hidden)))


def quantise(weights: Weights, settings: dict, frames: Tensor) -> Tensor:
    """For every frame and group the codeword with the highest score: (B, T, C) -> (B, T, G · D_G)."""
    groups, codes = settings["latent_groups"], settings["latent_vars"]
    scores = linear(weights, "quantizer.weight_proj", frames)
    out = []
    for row in scores:
        for frame in row:
            chosen = [frame[g * codes : (g + 1) * codes].argmax() + g * codes for g in range(groups)]
            out.append(torch.cat([weights["quantizer.vars"][0, code] for code in chosen]))
    return torch.stack(out).view(*scores.shape[:2], -1)


def data2vec_targets(weights: Weights, settings: dict, waveforms: Tensor) -> Tensor:
    """The teacher's upper layers for the unmasked frames, each normalised over time, averaged."""
    projected = linear(weights, "post_extract_proj", features(weights, settings, waveforms))
    teacher = {name.removeprefix("_ema."): weight for name, weight in weights.items() if name.startswith("_ema.")}
    _, results = transformer(teacher, settings, projected)
    top = results[-settings["average_top_k_layers"] :]
    return sum(norm(result, dim=1) for result in top) / len(top)


def ctc_logits(weights: Weights, settings: dict, waveforms: Tensor) -> Tensor:
    inside = "w2v_encoder.w2v_model."
    encoder = {name.removeprefix(inside): weight for name, weight in weights.items() if name.startswith(inside)}
    return linear(weights, "w2v_encoder.proj", encode(encoder, settings, waveforms))


def convolve(hidden: Tensor, kernels: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """(B, C_in, T) with (C_out, C_in, K) -> (B, C_out, T')."""
    size = kernels.shape[2]
    frames = [
        torch.einsum("bik,oik->bo", hidden[:, :, start : start + size], kernels)
        for start in range(0, hidden.shape[2] - size + 1, stride)
    ]
    out = torch.stack(frames, dim=2)
    return out if bias is None else out + bias[:, None]


def norm(hidden: Tensor, dim: int, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Mean 0 and variance 1 along a dimension; weight and bias are of that dimension."""
    centred = hidden - hidden.mean(dim=dim, keepdim=True)
    out = centred / (centred.square().mean(dim=dim, keepdim=True) + 1e-5).sqrt()
    if weight is None or bias is None:
        return out
    shape = [-1 if i == dim else 1 for i in range(hidden.ndim)]
    return out * weight.view(shape) + bias.view(shape)


def layer_norm(weights: Weights, name: str, hidden: Tensor) -> Tensor:
    return norm(hidden, dim=2, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"])


def linear(weights: Weights, name: str, hidden: Tensor) -> Tensor:
    return hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(hidden: Tensor) -> Tensor:
    return hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2

"""data2vec 2.0's network written out from the paper: one recording at a time, numbers by loops, no mask tensors."""

import math
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def slopes(num_heads: int) -> list[float]:
    """ALiBi's, as Press et al. 2021 tell it: the geometric sequence of a power of two, else filled up from 2n."""
    n = 1
    while 2 * n <= num_heads:
        n *= 2
    geometric = [2 ** (-8 * (head + 1) / n) for head in range(n)]
    finer = [2 ** (-8 * (head + 1) / (2 * n)) for head in range(2 * n)]
    return geometric + finer[0::2][: num_heads - n]


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def norm(x: Tensor, layer: nn.LayerNorm | None = None) -> Tensor:
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + 1e-5)
    return x if layer is None else x * layer.weight + layer.bias


@torch.no_grad()
def convolution(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """Zero-padded to the same length, then LayerNorm and GELU: (T, D) to (T, D')."""
    (kernel,), per_group = layer.kernel_size, layer.out_channels // layer.groups
    padded = torch.cat([torch.zeros(kernel // 2, x.shape[1]), x, torch.zeros(kernel // 2, x.shape[1])])
    rows = []
    for t in range(len(x)):
        seen = padded[t : t + kernel].T  # (D, kernel)
        groups = seen.reshape(layer.groups, -1, kernel)
        rows.append([(layer.weight[c] * groups[c // per_group]).sum() + layer.bias[c] for c in range(len(layer.bias))])
    return F.gelu(norm(torch.tensor(rows)))


@torch.no_grad()
def attention(x: Tensor, layer: nn.Module, places: list[int], scales: Tensor) -> Tensor:
    """Softmax attention with every score written out: minus slope times scale times distance."""
    queries, keys, values = (linear(x, part) for part in (layer.q_proj, layer.k_proj, layer.v_proj))
    heads = []
    for h, slope in enumerate(slopes(layer.num_heads)):
        columns = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
        rows = []
        for i, place in enumerate(places):
            scores = [
                (queries[i, columns] @ keys[j, columns]).item() / math.sqrt(layer.head_dim)
                - slope * max(0.0, scales[h].item()) * abs(place - other)
                for j, other in enumerate(places)
            ]
            rows.append(torch.softmax(torch.tensor(scores), dim=0) @ values[:, columns])
        heads.append(torch.stack(rows))
    return linear(torch.cat(heads, dim=-1), layer.out_proj)


def encode(encoder: nn.Module, local: Tensor, places: list[int] | None = None) -> tuple[Tensor, list[Tensor]]:
    """One recording (T, D), or its frames at the places alone: the output, and each block's feed-forward output."""
    places = list(range(len(local))) if places is None else places
    x = torch.stack([frame if t in places else torch.zeros_like(frame) for t, frame in enumerate(local)])
    for layer in encoder.pos_conv_embed.layers:
        x = convolution(x, layer)
    x = norm(torch.stack([local[t] + x[t] for t in places]), encoder.layer_norm)
    outputs = []
    for layer in encoder.layers:
        x = norm(x + attention(x, layer.attention, places, encoder.alibi_scale), layer.layer_norm)
        outputs.append(
            linear(F.gelu(linear(x, layer.feed_forward.intermediate_dense)), layer.feed_forward.output_dense)
        )
        x = norm(x + outputs[-1], layer.final_layer_norm)
    return x, outputs


def average(outputs: list[Tensor]) -> Tensor:
    """The targets: each channel of each layer normalised over time, then the mean of the layers."""
    num_frames, hidden_size = outputs[0].shape
    targets = torch.zeros(num_frames, hidden_size)
    for output in outputs:
        for channel in range(hidden_size):
            values = output[:, channel].tolist()
            mean, std = statistics.fmean(values), math.sqrt(statistics.pvariance(values) + 1e-5)
            for t, value in enumerate(values):
                targets[t, channel] += (value - mean) / std / len(outputs)
    return targets


def decode(decoder: nn.Module, frames: Tensor) -> Tensor:
    """From visible frames with noise in the gaps, (T, D), to predictions of all, (T, D)."""
    for layer in decoder.layers:
        filled = convolution(frames, layer)
        frames = filled + frames if filled.shape == frames.shape else filled
    return linear(frames, decoder.projection)

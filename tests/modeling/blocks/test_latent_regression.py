import math
import statistics

import pytest
import torch
from torch import nn

from hf_ssl.modeling.blocks.latent_regression import (
    average_blocks,
    average_layers,
    channel_std,
    normalise_over_time,
    regression_errors,
    smooth_l1_errors,
)


def layers(num_layers=3, seed=0):
    torch.manual_seed(seed)
    return [5 * torch.randn(2, 7, 4) + 3 for _ in range(num_layers)]


def all_frames(num_rows=2, num_frames=7):
    return torch.ones(num_rows, num_frames, dtype=torch.bool)


def normalised(values):
    mean, variance = statistics.fmean(values), statistics.pvariance(values)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in values]


def test_targets_of_images_are_normalised_before_and_after_the_mean():
    targets = average_blocks(layers())
    for row in range(2):
        for patch in range(7):
            vectors = [normalised(layer[row, patch].tolist()) for layer in layers()]
            expected = normalised([statistics.fmean(values) for values in zip(*vectors, strict=True)])
            assert targets[row, patch].tolist() == pytest.approx(expected, abs=1e-5)


def test_smooth_l1_is_a_square_up_to_beta():
    predictions = torch.tensor([[0.0, 1.0, 5.0], [0.5, -3.0, 2.0]])
    errors = smooth_l1_errors(predictions, torch.zeros(2, 3), beta=2.0)
    assert errors.tolist() == pytest.approx([(0.25 + 4) / 3, (0.0625 + 2 + 1) / 3])
    assert smooth_l1_errors(predictions.bfloat16(), torch.zeros(2, 3), beta=2.0).dtype == torch.float32


def test_targets_are_the_mean_of_layers_that_are_normalised_over_time():
    lengths = [7, 4]
    is_frame = torch.arange(7) < torch.tensor(lengths)[:, None]
    targets = average_layers(layers(), is_frame)
    for row, length in enumerate(lengths):
        for channel in range(4):
            expected = [0.0] * length
            for layer in layers():
                values = layer[row, :length, channel].tolist()
                mean, variance = statistics.fmean(values), statistics.pvariance(values)
                for t, value in enumerate(values):
                    expected[t] += (value - mean) / math.sqrt(variance + 1e-5) / 3
            assert targets[row, :length, channel].tolist() == pytest.approx(expected, abs=1e-5)
    assert (targets[1, 4:] == 0).all()


def test_without_padding_it_is_instance_norm():
    [layer] = layers(1)
    expected = nn.functional.instance_norm(layer.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(normalise_over_time(layer, all_frames()), expected)


def test_what_lies_in_the_padding_is_never_seen():
    [layer] = layers(1)
    is_frame = torch.arange(7) < torch.tensor([[7], [4]])
    expected = normalise_over_time(layer, is_frame)
    layer[1, 4:] = float("nan")
    assert torch.equal(normalise_over_time(layer, is_frame), expected)


def test_statistics_are_in_full_precision():
    half = (layers(1)[0] + 100).bfloat16()
    assert torch.equal(normalise_over_time(half, all_frames()), normalise_over_time(half.float(), all_frames()))


def test_errors_are_summed_over_channels_and_scaled():
    predictions, targets = layers(2)
    errors = regression_errors(predictions, targets)
    for row in range(2):
        for t in range(7):
            pairs = zip(predictions[row, t].tolist(), targets[row, t].tolist(), strict=True)
            assert errors[row, t].item() == pytest.approx(sum((p - y) ** 2 for p, y in pairs) / math.sqrt(4), rel=1e-5)
    assert regression_errors(predictions.bfloat16(), targets).dtype == torch.float32


def test_channel_std_is_over_all_counted_frames():
    [frames] = layers(1)
    is_counted = torch.arange(7) < torch.tensor([[5], [3]])
    counted = torch.cat([frames[0, :5], frames[1, :3]])
    expected = statistics.fmean(math.sqrt(statistics.variance(channel) + 1e-6) for channel in counted.T.tolist())
    assert channel_std(frames, is_counted).item() == pytest.approx(expected, rel=1e-5)
    assert channel_std(frames, all_frames()).item() == pytest.approx(frames.flatten(0, 1).std(dim=0).mean().item())


def test_channel_std_of_a_collapse():
    assert channel_std(torch.full((2, 7, 4), 3.0), all_frames()).item() == pytest.approx(0.001)
    assert channel_std(torch.randn(1, 1, 4), all_frames(1, 1)).item() == pytest.approx(0.001)


def test_compiles_into_one_graph():
    def step(predictions, first, second, is_frame):
        targets = average_layers([first, second], is_frame)
        errors = regression_errors(predictions, targets)
        return errors.sum(), channel_std(targets, is_frame), channel_std(predictions, is_frame)

    predictions, *rest = layers(3)
    predictions.requires_grad_()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for expected, value in zip(
        step(predictions, *rest, all_frames()), compiled(predictions, *rest, all_frames()), strict=True
    ):
        torch.testing.assert_close(value, expected)
    compiled(predictions, *rest, all_frames())[0].backward()
    assert predictions.grad.abs().sum() > 0

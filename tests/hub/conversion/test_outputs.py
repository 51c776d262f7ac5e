"""What a converted model computes is what fairseq's description says, with weights of fairseq's names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCTC, AutoModelForPreTraining, Wav2Vec2ForPreTraining, Wav2Vec2Model

from hf_ssl.hub.conversion.from_fairseq import convert_from_fairseq
from tests.hub.conversion import naive_fairseq as naive
from tests.hub.conversion.fairseq_models import (
    MODELS,
    cfg,
    fine_tuned_shapes,
    layers_of,
    random_weights,
    save,
    save_fine_tuned,
    save_pretrained,
    shapes_of,
)

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def settings_of(name: str) -> dict:
    return MODELS[name] | {"layers": layers_of(MODELS[name])}


@pytest.fixture
def waveforms() -> Tensor:
    return torch.randn(2, 700, generator=torch.Generator().manual_seed(1))  # 34 frames: an even number


@pytest.fixture
def odd_waveforms(waveforms: Tensor) -> Tensor:
    return waveforms[:, :680]  # 33 frames, which fairseq pads inside the Transformer


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_encoder(name: str, tmp_path: Path, waveforms: Tensor, odd_waveforms: Tensor) -> None:
    weights = random_weights(shapes_of(MODELS[name]))
    source = save_pretrained(tmp_path / "model.pt", name)
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers").path
    encoder = AutoModel.from_pretrained(folder).eval()
    for batch in (waveforms, odd_waveforms):
        hidden = encoder(batch).last_hidden_state
        expected = naive.encode(weights, settings_of(name), batch)
        assert hidden.std(dim=1).mean() > 0.05  # the frames differ: there is something to compare
        torch.testing.assert_close(hidden, expected, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2 large"])
def test_quantiser_and_projections_of_wav2vec2(name: str, tmp_path: Path, waveforms: Tensor) -> None:
    weights, settings = random_weights(shapes_of(MODELS[name])), settings_of(name)
    source = save_pretrained(tmp_path / "model.pt", name)
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers").path
    model = Wav2Vec2ForPreTraining.from_pretrained(folder).eval()
    output = model(waveforms)
    predictions = naive.linear(weights, "final_proj", naive.encode(weights, settings, waveforms))
    codes = naive.quantise(weights, settings, naive.features(weights, settings, waveforms))
    assert codes.flatten(0, 1).unique(dim=0).shape[0] > 3
    torch.testing.assert_close(output.projected_states, predictions, **TOLERANCE)
    torch.testing.assert_close(
        output.projected_quantized_states, naive.linear(weights, "project_q", codes), **TOLERANCE
    )


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_objective_goes_on_with_heads_and_teacher(name: str, tmp_path: Path, waveforms: Tensor) -> None:
    weights, settings = random_weights(shapes_of(MODELS[name])), settings_of(name)
    source = save_pretrained(tmp_path / "model.pt", name)
    folder = convert_from_fairseq(source, tmp_path / "converted", "hf_ssl").path
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    hidden = model.encoder(waveforms).last_hidden_state
    expected = naive.encode(weights, settings, waveforms)
    torch.testing.assert_close(hidden, expected, **TOLERANCE)
    head = model.project_hid if name.startswith("wav2vec2") else model.projection_head
    torch.testing.assert_close(head(hidden), naive.linear(weights, "final_proj", expected), **TOLERANCE)
    if name.startswith("hubert"):
        assert torch.equal(model.codebook, weights["label_embs_concat"][4:])
    if name == "data2vec":
        features = model.encoder.feature_extractor(waveforms).transpose(1, 2)
        targets = model.targets(model.encoder.feature_projection(features)[0])
        torch.testing.assert_close(targets, naive.data2vec_targets(weights, settings, waveforms), rtol=1e-3, atol=1e-4)
    if name.startswith("wav2vec2"):
        assert torch.equal(model.quantizer.codevectors, weights["quantizer.vars"])
        # 25,000 of 400,000 updates
        torch.testing.assert_close(model.gumbel_temperature.item(), 2 * 0.999995**25_000, rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_ctc(name: str, tmp_path: Path, waveforms: Tensor) -> None:
    weights = random_weights(fine_tuned_shapes(MODELS[name]))
    source = save_fine_tuned(tmp_path / "model.pt", name)
    folder = convert_from_fairseq(
        source, tmp_path / "converted", "transformers", dictionary=tmp_path / "dict.ltr.txt"
    ).path
    model = AutoModelForCTC.from_pretrained(folder).eval()
    torch.testing.assert_close(
        model(waveforms).logits, naive.ctc_logits(weights, settings_of(name), waveforms), **TOLERANCE
    )


@torch.no_grad()
def test_positional_convolution_with_batch_norm(tmp_path: Path, waveforms: Tensor) -> None:
    """HuBERT's for bf16: the convolution stands second, behind the norm, and has no weight norm."""
    model = MODELS["hubert"] | {"conv_pos_batch_norm": True}
    shapes = shapes_of(model)
    for part in ("weight_g", "weight_v", "bias"):
        del shapes[f"encoder.pos_conv.0.{part}"]
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"encoder.pos_conv.0.{part}"] = (32,)
    shapes |= {"encoder.pos_conv.1.weight": (32, 8, 8), "encoder.pos_conv.1.bias": (32,)}
    weights = random_weights(shapes)
    weights["encoder.pos_conv.0.running_var"] = weights["encoder.pos_conv.0.running_var"].square() + 0.5
    weights["encoder.pos_conv.0.num_batches_tracked"] = torch.tensor(7)
    source = save(tmp_path / "model.pt", cfg(model), weights)
    encoder = AutoModel.from_pretrained(convert_from_fairseq(source, tmp_path / "hf", "transformers").path).eval()
    hidden = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(2))
    inside = {name.removeprefix("encoder.pos_conv."): weight for name, weight in weights.items()}
    normed = (hidden - inside["0.running_mean"]) / (inside["0.running_var"] + 1e-5).sqrt()
    normed = normed * inside["0.weight"] + inside["0.bias"]
    expected = naive.gelu(naive.same_length(normed.transpose(1, 2), inside["1.weight"], inside["1.bias"], groups=4))
    torch.testing.assert_close(encoder.encoder.pos_conv_embed(hidden), expected.transpose(1, 2), **TOLERANCE)


@torch.no_grad()
def test_encoder_without_quantiser_is_a_bare_one(tmp_path: Path, waveforms: Tensor) -> None:
    model = MODELS["wav2vec2"] | {"quantize_targets": False}
    shapes = {name: shape for name, shape in shapes_of(model).items() if not name.startswith("quantizer.")}
    shapes["project_q.weight"] = (12, 16)
    weights = random_weights(shapes)
    converted = convert_from_fairseq(save(tmp_path / "m.pt", cfg(model), weights), tmp_path / "hf", "transformers")
    assert converted.kind == "a Wav2Vec2Model"
    assert converted.set_aside == ["final_proj.bias", "final_proj.weight", "project_q.bias", "project_q.weight"]
    encoder = Wav2Vec2Model.from_pretrained(converted.path).eval()
    expected = naive.encode(weights, settings_of("wav2vec2"), waveforms)
    torch.testing.assert_close(encoder(waveforms).last_hidden_state, expected, **TOLERANCE)
    ours = convert_from_fairseq(tmp_path / "m.pt", tmp_path / "ours", "hf_ssl").path
    objective = AutoModelForPreTraining.from_pretrained(ours)  # continuous targets are one of the paper's ablations
    assert not objective.config.quantize_targets
    assert torch.equal(objective.project_q.weight, weights["project_q.weight"])

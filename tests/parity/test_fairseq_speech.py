"""Numbers that the authors' code gives, frozen.

Source: fairseq, commit 3d262bb, run with torch 2.13.0: `Wav2Vec2Model`, `HubertModel` and `Data2VecAudioModel` with
the same settings, weights and waveforms. Of each output stand here the sum of its magnitudes over the second row, and
the first numbers of its last frame.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForPreTraining

from hf_ssl.hub.conversion.from_fairseq import convert_from_fairseq
from tests.hub.conversion.fairseq_models import MODELS, cfg, save, shapes_of
from tests.parity.inputs import chirp

NUMBERS = {
    "wav2vec2": {
        "hidden": (1734.27869, [1.393736, 1.444394, 0.145325, -1.772680, -0.160199]),
        "head": (909.87512, [0.256757, 0.903902, -0.526326, 1.196457, 1.866004]),
        "quantised": (504.90302, [-1.767662, 1.125023, 0.403448, 0.664515, -0.653246]),
    },
    "wav2vec2 large": {
        "hidden": (1542.88464, [2.762823, -1.662557, 0.225917, -0.217287, 0.768213]),
        "head": (725.50281, [-0.524073, 0.799913, -0.428796, -0.127151, -0.744166]),
        "quantised": (517.50598, [0.373439, 1.687075, -1.401502, 0.110798, -0.014426]),
    },
    "hubert": {
        "hidden": (1731.77258, [1.845666, 1.527235, 0.077535, -1.754901, -0.503156]),
        "head": (806.63483, [0.114442, 0.723610, -0.374538, 1.055185, 1.963478]),
    },
    "hubert large": {
        "hidden": (1542.66809, [3.170243, -2.063044, 0.133165, 0.014899, 0.174889]),
        "head": (814.22943, [-0.304377, 1.704076, 0.609012, 0.033868, 0.460869]),
    },
    "data2vec": {
        "hidden": (1785.65356, [1.261272, -1.413159, 1.158578, -0.705472, 0.382760]),
        "head": (2411.35498, [-1.791717, -0.034634, 0.878984, -1.496998, -1.251426]),
        "targets": (1294.63611, [-0.950355, 0.405341, 1.343148, 1.581580, -2.062912]),
    },
}


def weight(name: str, shape: tuple[int, ...], phase: float) -> Tensor:
    made = chirp(*shape, phase=phase)
    if len(shape) > 1:
        return made * (2 * shape[-1] ** -0.5)
    return 1 + 0.3 * made if name.endswith("weight") else 0.5 * made


@torch.no_grad()
@pytest.mark.parametrize("name", NUMBERS)
def test_a_converted_model_gives_the_authors_numbers(name: str, tmp_path: Path) -> None:
    shapes = sorted(shapes_of(MODELS[name]).items())
    weights = {key: weight(key, shape, 0.37 * i) for i, (key, shape) in enumerate(shapes)}
    source = save(tmp_path / "model.pt", cfg(MODELS[name]), weights)
    model = AutoModelForPreTraining.from_pretrained(convert_from_fairseq(source, tmp_path / "ours", "hf_ssl").path)
    model.eval()
    waveforms = chirp(2, 1200, phase=0.2)
    hidden = model.encoder(waveforms).last_hidden_state
    features = model.encoder.feature_extractor(waveforms).transpose(1, 2)
    outputs = {"hidden": hidden}
    if name.startswith("wav2vec2"):
        outputs["head"] = model.project_hid(hidden)
        normalised = model.encoder.feature_projection(features)[1]
        outputs["quantised"] = model.project_q(model.quantizer(normalised, None, model.gumbel_temperature).vectors)
    else:
        outputs["head"] = model.projection_head(hidden)
    if name == "data2vec":
        outputs["targets"] = model.targets(model.encoder.feature_projection(features)[0])
    assert outputs.keys() == NUMBERS[name].keys()
    for key, (total, numbers) in NUMBERS[name].items():
        row = outputs[key][1]
        assert row.abs().sum().item() == pytest.approx(total, rel=1e-4), key
        torch.testing.assert_close(row[-1, :5], torch.tensor(numbers), rtol=1e-3, atol=1e-4, msg=key)

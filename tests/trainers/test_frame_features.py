"""Features of frames: a layer of an encoder is what transformers says it is, however recordings are batched."""

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    AutoModel,
    Data2VecAudioConfig,
    HubertConfig,
    PreTrainedConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    set_seed,
)

from hf_ssl.data.features import log_mel, mfcc
from hf_ssl.errors import InputError
from hf_ssl.trainers.frame_features import frame_features, weights_digest

RATE = 16_000
CPU = torch.device("cpu")
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "hubert, group norm": HubertConfig(**TINY),
    "hubert, layer norm": HubertConfig(**TINY, feat_extract_norm="layer", do_stable_layer_norm=True),
    "wav2vec2": Wav2Vec2Config(**TINY),
    "wavlm": WavLMConfig(**TINY),
    "data2vec": Data2VecAudioConfig(**{**TINY, "num_conv_pos_embeddings": 2}),
}


def waveforms(*seconds: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(round(length * RATE)).astype(np.float32) for length in seconds]


def save(config: PreTrainedConfig, folder) -> str:
    set_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_is_the_hidden_state_of_each_recording_alone(name, tmp_path):
    rows = waveforms(0.5, 0.9, 0.5, 0.4123, 0.9)
    encoder = AutoModel.from_pretrained(save(CONFIGS[name], tmp_path)).eval()
    processor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    for layer in range(4):
        features = frame_features(str(tmp_path), layer, RATE, CPU)
        assert (features.rate, features.size) == (50.0, 32)
        for row, frames in zip(rows, features(rows), strict=True):
            values = processor(row, sampling_rate=RATE, return_tensors="pt").input_values
            with torch.no_grad():
                expected = encoder(values, output_hidden_states=True).hidden_states[layer][0]
            assert len(frames) == features.num_frames(len(row))
            torch.testing.assert_close(frames, expected, atol=1e-4, rtol=0)


def test_recordings_of_as_many_frames_are_batched(tmp_path, monkeypatch):
    rows = waveforms(0.5, 0.504, 0.9, 0.5)  # 24, 24, 44 and 24 frames; only the first and the last are equally long
    for name, sizes in (("hubert, layer norm", [3, 1]), ("hubert, group norm", [2, 1, 1])):
        features = frame_features(save(CONFIGS[name], tmp_path / name), 1, RATE, CPU)
        forward = features.encoder.forward
        sizes_met = []
        monkeypatch.setattr(
            features.encoder,
            "forward",
            lambda values, call=forward, met=sizes_met, **options: met.append(len(values)) or call(values, **options),
        )
        features(rows)
        assert sizes_met == sizes


def test_layers_that_are_not_needed_are_not_computed(tmp_path):
    name = save(CONFIGS["wav2vec2"], tmp_path)
    assert len(frame_features(name, 1, RATE, CPU).encoder.encoder.layers) == 2


def test_long_recordings_are_cut_into_chunks_without_gaps(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_ssl.trainers.frame_features.CHUNK_SECONDS", 0.3)
    monkeypatch.setattr("hf_ssl.trainers.frame_features.BATCH_SECONDS", 0.7)
    name = save(CONFIGS["hubert, layer norm"], tmp_path)
    (waveform,) = waveforms(1.01)
    features = frame_features(name, 2, RATE, CPU)
    (frames,) = features([waveform])
    assert len(frames) == features.num_frames(len(waveform)) == 50
    normalised = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    chunks = [normalised[first * 320 :][: (15 - 1) * 320 + 400] for first in (0, 15, 30, 45)]
    encoder = AutoModel.from_pretrained(name).eval()
    with torch.no_grad():
        parts = [encoder(torch.from_numpy(c)[None], output_hidden_states=True).hidden_states[2][0] for c in chunks]
    torch.testing.assert_close(frames, torch.cat(parts)[:50], atol=1e-4, rtol=0)


def test_signal_features_are_those_of_each_recording():
    rows = waveforms(0.5, 0.7)
    for name, function, size in (("mfcc", mfcc, 39), ("log_mel", log_mel, 80)):
        features = frame_features(name, None, RATE, CPU)
        assert (features.rate, features.size, features.digest) == (100.0, size, "")
        for row, frames in zip(rows, features(rows), strict=True):
            assert frames.equal(function(torch.from_numpy(row), RATE))
            assert len(frames) == features.num_frames(len(row))


def test_the_digest_names_the_weights(tmp_path):
    name = save(CONFIGS["wav2vec2"], tmp_path)
    first, again, other = (frame_features(name, layer, RATE, CPU).digest for layer in (1, 1, 2))
    assert first == again != other
    layer = torch.nn.Linear(2, 2)
    before = weights_digest(layer)
    with torch.no_grad():
        layer.bias += 1
    assert weights_digest(layer) != before


@pytest.mark.parametrize(
    ("layer", "rate", "message"),
    [
        (None, RATE, "Which layer of .* is to be clustered"),
        (4, RATE, "has layers 0 to 3, not 4"),
        (-1, RATE, "has layers 0 to 3, not -1"),
        (1, 8_000, "takes recordings at 16000 Hz, but data.sampling_rate is 8000"),
    ],
)
def test_layers_and_rates_that_cannot_be_used(tmp_path, layer, rate, message):
    name = save(CONFIGS["wav2vec2"], tmp_path)
    with pytest.raises(InputError, match=message):
        frame_features(name, layer, rate, CPU)


def test_an_encoder_of_spectrograms(tmp_path):
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ASTModel(ASTConfig(**tiny)).save_pretrained(tmp_path)
    ASTFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not take waveforms"):
        frame_features(str(tmp_path), 1, RATE, CPU)

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoFeatureExtractor, AutoModel, HubertConfig, Wav2Vec2FeatureExtractor

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.encoder_inputs import encoder_frames, encoder_input, fresh_processor, inputs_per_second, num_inputs
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.mel_front_end import FRONT_ENDS, mel_front_end
from tests.tiny_encoders import MEL_ENCODERS, TRANSFORMER

RATES = (8_000, 16_000)


def architecture(model_type):
    return CONFIG_MAPPING[model_type](**MEL_ENCODERS[model_type])


def noise(num_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


@pytest.fixture(scope="module")
def prompts():
    """Real speech, at its own 8 kHz."""
    return load_splits(SpeechDataArguments(path="sample:speech"), "speech")["test"].select(range(6))


def in_evaluation(processor, waveform):
    """What an encoder reads in evaluation: the rows that are not padding."""
    batch = processor(waveform, sampling_rate=processor.sampling_rate, return_tensors="pt")
    return batch["input_features"][0][batch["attention_mask"][0].bool()]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("model_type", ["wav2vec2-bert", "parakeet_encoder"])
def test_features_are_those_of_the_saved_processor(model_type, rate, prompts, tmp_path):
    processor = fresh_processor(rate, CONFIG_MAPPING[model_type]())
    processor.save_pretrained(tmp_path)
    saved = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(saved) is type(processor)
    assert saved.sampling_rate == rate
    for row in prompts:
        waveform = decode_audio(row["audio"], rate)
        ours, theirs = encoder_input(processor, waveform), in_evaluation(saved, waveform)
        assert ours.shape == theirs.shape
        difference = (ours - theirs).abs()
        assert difference.mean() < 1e-3
        # Of prompts that were resampled from 8 kHz, the bands above 4 kHz hold rounding errors: fp32's or fp64's.
        bands = difference.reshape(-1, 80)[:, : 60 if rate == 16_000 else 80]
        assert bands.max() < 5e-3
        assert ours.shape[1] == mel_front_end(CONFIG_MAPPING[model_type]()).input_size


@pytest.mark.parametrize("model_type", FRONT_ENDS)
def test_each_band_has_mean_0_and_variance_1(model_type):
    config = architecture(model_type)
    features = encoder_input(fresh_processor(16_000, config), noise(32_000))
    bands = features.reshape(-1, mel_front_end(config).num_bands)  # mel frames, one after the other
    torch.testing.assert_close(bands.mean(dim=0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(bands.std(dim=0), torch.ones(8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("model_type", [*FRONT_ENDS, "hubert"])
def test_frames_of_a_recording_are_counted_without_running_the_encoder(model_type, rate):
    config = HubertConfig(**TRANSFORMER) if model_type == "hubert" else architecture(model_type)
    encoder, processor = AutoModel.from_config(config).eval(), fresh_processor(rate, config)
    for num_samples in (6_000, 6_079, 6_080, 6_240, 6_400, 7_999, 8_000, 16_001):
        inputs = encoder_input(processor, noise(num_samples))
        assert len(inputs) == num_inputs(processor, num_samples)
        hidden = encoder(inputs[None]).last_hidden_state
        assert hidden.shape[1] == encoder_frames(config, num_samples, processor)
    assert encoder_frames(config, 10, processor) == 0
    assert num_inputs(processor, 60 * rate) / inputs_per_second(processor) == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("model_type", FRONT_ENDS)
def test_evaluation_feeds_the_encoder(model_type, prompts):
    config = architecture(model_type)
    encoder, processor = AutoModel.from_config(config).eval(), fresh_processor(16_000, config)
    collate = LabelledCollator(modality="speech", processor=processor)
    batch = collate([prompts[0]])
    frames = encoder(**batch).last_hidden_state.shape[1]
    samples = len(decode_audio(prompts[0]["audio"], 16_000))
    assert 0 <= frames - encoder_frames(config, samples, processor) <= 1  # a padded input may make a frame more


def test_waveforms_stay_waveforms():
    for config in (None, HubertConfig()):
        processor = fresh_processor(8_000, config)
        assert isinstance(processor, Wav2Vec2FeatureExtractor)
        waveform = encoder_input(processor, noise(800) + 3)
        assert waveform.shape == (800,)
        assert waveform.mean().abs() < 1e-4
    assert inputs_per_second(processor) == 8_000


def test_too_short_recordings():
    for model_type in ("wav2vec2-bert", "parakeet_encoder"):
        processor = fresh_processor(16_000, architecture(model_type))
        with pytest.raises(InputError, match=r"0\.019 s is too short for log-mel frames; raise data\.min_seconds"):
            encoder_input(processor, noise(300))

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel, HubertConfig, WhisperConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.mel_front_end import FRONT_ENDS, mel_front_end
from tests.tiny_encoders import MEL_ENCODERS


@pytest.mark.parametrize("model_type", FRONT_ENDS)
def test_frames_are_those_of_the_encoder(model_type):
    config = CONFIG_MAPPING[model_type](**MEL_ENCODERS[model_type])
    encoder, front_end = AutoModel.from_config(config).eval(), mel_front_end(config)
    for num_inputs in (13, 14, 15, 16, 17, 40, 41, 42, 43, 100):
        hidden = encoder(torch.randn(1, num_inputs, front_end.input_size)).last_hidden_state
        assert hidden.shape[1] == front_end.num_frames(num_inputs), num_inputs
    assert front_end.num_frames(0) == 0
    # a long recording has a frame every `stride` mel frames
    assert 10_000 * front_end.stack / front_end.num_frames(10_000) == pytest.approx(front_end.stride, rel=0.01)
    assert front_end.num_bands * front_end.stack == front_end.input_size


def test_too_few_inputs_have_no_frame():
    front_end = mel_front_end(CONFIG_MAPPING["lasr_encoder"](**MEL_ENCODERS["lasr_encoder"]))
    assert [front_end.num_frames(n) for n in (1, 4, 5, 12, 13)] == [0, 0, 0, 0, 1]


def test_an_adapter_subsamples():
    config = CONFIG_MAPPING["wav2vec2-bert"](
        **MEL_ENCODERS["wav2vec2-bert"], add_adapter=True, num_adapter_layers=2, adapter_kernel_size=3
    )
    encoder, front_end = AutoModel.from_config(config).eval(), mel_front_end(config)
    for num_inputs in (20, 21, 22, 23):
        assert encoder(torch.randn(1, num_inputs, 16)).last_hidden_state.shape[1] == front_end.num_frames(num_inputs)
    assert front_end.stride == 8


@pytest.mark.parametrize("config", [WhisperConfig(), HubertConfig()], ids=["whisper", "hubert"])
def test_other_encoders_are_refused(config):
    with pytest.raises(InputError, match=f"'{config.model_type}' is not known to read log-mel frames .*wav2vec2-bert"):
        mel_front_end(config)

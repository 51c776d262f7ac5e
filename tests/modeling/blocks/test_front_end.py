import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2BertConfig, Wav2Vec2BertModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import num_frames
from hf_ssl.modeling.blocks.front_end import frames_of_inputs
from tests.modeling.blocks.test_waveform import SIZES

MEL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "feature_projection_input_dim": 20,
    "output_hidden_size": 16,
}


def test_frames_are_those_that_the_encoders_make():
    hubert, mel = HubertConfig(**SIZES), Wav2Vec2BertConfig(**MEL)
    adapted = Wav2Vec2BertConfig(**MEL, add_adapter=True)
    for length in (1000, 1001, 1319, 1320):
        frames = HubertModel(hubert).eval()(torch.randn(1, length)).last_hidden_state.shape[1]
        assert frames_of_inputs(hubert, length) == frames == num_frames(hubert, length)
    for length in (7, 8):
        assert frames_of_inputs(mel, length) == length
        output = Wav2Vec2BertModel(adapted).eval()(torch.randn(1, length, 20))
        assert frames_of_inputs(adapted, length) == output.last_hidden_state.shape[1]


def test_a_tensor_gives_what_its_numbers_give():
    config = HubertConfig(**SIZES)
    lengths = torch.tensor([0, 9, 10, 500, 8000])
    assert frames_of_inputs(config, lengths).tolist() == [frames_of_inputs(config, n) for n in lengths.tolist()]
    assert frames_of_inputs(config, lengths)[:3].tolist() == [0, 0, 0]


def test_an_encoder_of_something_else():
    from transformers import BertConfig

    with pytest.raises(InputError, match="'bert' is not known to read log-mel frames"):
        frames_of_inputs(BertConfig(), 5)

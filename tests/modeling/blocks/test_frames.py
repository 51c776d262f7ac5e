import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config

from hf_ssl.modeling.blocks.frames import IGNORED, downsampling, labels_at_frames, num_frames, receptive_field


def test_published_stack():
    config = Wav2Vec2Config()
    assert (downsampling(config), receptive_field(config)) == (320, 400)
    assert num_frames(config, 16_000) == 49
    assert num_frames(config, 400) == 1
    assert num_frames(config, 399) == 0


@pytest.mark.parametrize("num_samples", [47, 48, 100, 101, 1000, 1234])
def test_frames_are_those_of_the_encoder(num_samples):
    config = HubertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        conv_dim=(4, 4, 4),
        conv_kernel=(10, 4, 3),
        conv_stride=(5, 2, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=1,
    )
    hidden = HubertModel(config).eval()(torch.randn(1, num_samples)).last_hidden_state
    assert hidden.shape[1] == num_frames(config, num_samples)
    assert (downsampling(config), receptive_field(config)) == (20, 10 + 3 * 5 + 2 * 10)


@pytest.mark.parametrize(("labels_per_frame", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 2, 4, 6]), (0.5, [0, 0, 1, 1])])
def test_label_of_a_frame(labels_per_frame, expected):
    assert labels_at_frames(torch.arange(10), 4, labels_per_frame).tolist() == expected


def test_frames_after_the_last_label_are_ignored():
    assert labels_at_frames(torch.arange(5), 4, 2).tolist() == [0, 2, 4, IGNORED]

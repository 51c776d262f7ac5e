import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.span_masking import span_mask
from hf_ssl.modeling.blocks.waveform import (
    adapt_waveform_encoder,
    changed_features,
    draw_span_masks,
    feature_projection,
    frames_of_rows,
    masked_channels,
    masked_frames,
)

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
}
SPECIAL = {
    "data2vec-audio": {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
    "wav2vec2-conformer": {"conformer_conv_dropout": 0.0},
    "sew": {"conv_dim": [16, 16, 8]},  # as wide as the Transformer, it would have no projection
}
FAMILY = ["wav2vec2", "hubert", "wavlm", "unispeech-sat", "unispeech", "data2vec-audio", "sew", "wav2vec2-conformer"]


@pytest.fixture(params=FAMILY)
def encoder(request):
    config = CONFIG_MAPPING[request.param](**{**SIZES, **SPECIAL.get(request.param, {}), "mask_time_prob": 0.0})
    adapt_waveform_encoder(config, "HuBERT")
    torch.manual_seed(0)
    return AutoModel.from_config(config)


def test_masked_frames_are_those_that_the_encoders_own_way_masks(encoder):
    waveforms, mask = torch.randn(2, 8000), torch.rand(2, 25) < 0.5
    with masked_frames(encoder, mask):
        ours = encoder.train()(waveforms).last_hidden_state
    encoder.config.apply_spec_augment = True
    assert torch.equal(ours, encoder(waveforms, mask_time_indices=mask).last_hidden_state)
    assert not encoder.encoder._forward_pre_hooks


def test_masked_channels_are_zero_in_every_frame_masked_or_not(encoder):
    waveforms, times, channels = torch.randn(2, 8000), torch.rand(2, 25) < 0.5, torch.rand(2, 16) < 0.5
    read = []
    with masked_frames(encoder, times), masked_channels(encoder, channels):
        encoder.encoder.register_forward_pre_hook(lambda module, args: read.append(args[0].detach().clone()))
        encoder.train()(waveforms)
    for row in range(2):
        assert (read[0][row][:, channels[row]] == 0).all()
        kept = encoder.masked_spec_embed[~channels[row]].expand(int(times[row].sum()), -1)
        assert torch.equal(read[0][row][times[row]][:, ~channels[row]], kept)
        assert (read[0][row][~times[row]][:, ~channels[row]] != 0).any()


def test_an_encoder_masks_nothing_on_its_own(encoder):
    waveforms = torch.randn(2, 8000)
    assert torch.equal(encoder.train()(waveforms).last_hidden_state, encoder(waveforms).last_hidden_state)
    assert encoder.masked_spec_embed.shape == (16,)


def test_every_row_has_its_own_mask():
    generators = [item_generator(0, 0, row) for row in range(3)]
    mask = draw_span_masks([50, 30, 40], 50, probability=0.65, length=5, min_masks=2, generators=generators)
    for row, frames in enumerate([50, 30, 40]):
        alone = span_mask(frames, 0.65, 5, 2, item_generator(0, 0, row))
        assert torch.equal(mask[row, :frames], alone)
        assert not mask[row, frames:].any()


def test_frames_of_rows():
    config = CONFIG_MAPPING["hubert"](**SIZES)
    batch = {"input_values": torch.zeros(2, 8000)}
    assert frames_of_rows(config, batch) == ([25, 25], 25)
    batch["attention_mask"] = (torch.arange(8000) < torch.tensor([[8000], [4000]])).long()
    assert frames_of_rows(config, batch) == ([25, 12], 25)
    batch["attention_mask"][1, 100:] = 0
    with pytest.raises(InputError, match="100 samples is shorter than the"):
        frames_of_rows(config, batch)


def test_refuses_an_encoder_of_another_kind():
    with pytest.raises(InputError, match="'bert' does not read waveforms through a CNN; wav2vec 2.0 needs"):
        adapt_waveform_encoder(CONFIG_MAPPING["bert"](), "wav2vec 2.0")


def test_features_can_be_replaced_before_they_are_projected_and_masked(encoder):
    waveforms, mask = torch.randn(2, 8000), torch.rand(2, 25) < 0.5
    channels = encoder.config.conv_dim[-1]
    normalised, others = [], torch.randn(2, 25, channels)

    def replace(features):
        normalised.append(features)
        return others

    projected = []
    handle = encoder.encoder.register_forward_pre_hook(lambda module, args: projected.append(args[0].detach()))
    with torch.no_grad(), changed_features(encoder, replace), masked_frames(encoder, mask):
        encoder.eval()(waveforms)
    handle.remove()
    assert normalised[0].shape == (2, 25, channels)
    torch.testing.assert_close(normalised[0].mean(dim=-1), torch.zeros(2, 25), atol=1e-5, rtol=0)
    expected = feature_projection(encoder)(others)
    torch.testing.assert_close(projected[0][~mask], expected[~mask])
    assert not feature_projection(encoder)._forward_pre_hooks


def test_an_encoder_without_a_projection_is_refused():
    encoder = AutoModel.from_config(CONFIG_MAPPING["sew"](**SIZES))
    with pytest.raises(InputError, match="'sew' has no projection between its CNN and its Transformer"):
        feature_projection(encoder)

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.span_masking import span_mask
from hf_ssl.modeling.blocks.waveform import adapt_waveform_encoder, draw_span_masks, frames_of_rows, masked_frames

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

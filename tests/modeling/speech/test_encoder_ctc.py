import pytest
import torch
from transformers import AutoModel, AutoModelForCTC, HubertConfig, HubertForCTC, Wav2Vec2BertConfig, Wav2Vec2BertForCTC

import hf_ssl  # noqa: F401 - registers the classes
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig
from hf_ssl.modeling.speech.encoder_ctc import EncoderForCTC, EncoderForCTCConfig
from tests.tiny_encoders import TRANSFORMER

CNN = {"conv_dim": [16] * 3, "conv_kernel": [10, 8, 4], "conv_stride": [5, 8, 8]}
WAVEFORM = {**TRANSFORMER, **CNN, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "layerdrop": 0.0}
MEL = {**TRANSFORMER, "feature_projection_input_dim": 20, "layerdrop": 0.0}
HEAD = {"vocab_size": 7, "pad_token_id": 0, "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}


def published(kind: str):
    """A CTC model of transformers, and inputs of unequal lengths for it."""
    torch.manual_seed(0)
    labels = torch.tensor([[1, 2, 2, 3], [5, 6, -100, -100]])
    if kind == "mel":
        model = Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**MEL, **HEAD))
        mask = (torch.arange(40) < torch.tensor([[40], [25]])).long()
        return model.eval(), {"input_features": torch.randn(2, 40, 20), "attention_mask": mask, "labels": labels}
    model = HubertForCTC(HubertConfig(**WAVEFORM, **HEAD, feat_extract_norm="layer"))
    mask = (torch.arange(8000) < torch.tensor([[8000], [4100]])).long()
    return model.eval(), {"input_values": torch.randn(2, 8000), "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", ["waveform", "mel"])
def test_scores_and_loss_are_those_of_transformers_own_classes(kind, masked):
    theirs, inputs = published(kind)
    ours = EncoderForCTC(EncoderForCTCConfig(encoder_config=theirs.config, **HEAD)).eval()
    ours.speech_encoder.load_state_dict(theirs.base_model.state_dict())
    ours.lm_head.load_state_dict(theirs.lm_head.state_dict())
    if not masked:
        del inputs["attention_mask"]
    expected, found = theirs(**inputs), ours(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)
    assert ours.main_input_name == theirs.main_input_name
    assert ours(**inputs, output_hidden_states=True).hidden_states[0].shape == (2, found.logits.shape[1], 32)


def data2vec2() -> Data2Vec2AudioConfig:
    return Data2Vec2AudioConfig(**TRANSFORMER, **CNN, num_conv_pos_embeddings=1, num_conv_pos_embedding_groups=2)


@pytest.mark.parametrize("config", [data2vec2(), HubertConfig(**WAVEFORM)], ids=["data2vec 2.0", "hubert"])
def test_a_checkpoint_of_the_bare_encoder_loads_into_it(tmp_path, config):
    """Although both have a part that is called `encoder`."""
    encoder = AutoModel.from_config(config)
    encoder.save_pretrained(tmp_path)
    model, report = AutoModelForCTC.from_pretrained(
        tmp_path, config=EncoderForCTCConfig(encoder_config=config, vocab_size=7), output_loading_info=True
    )
    assert set(report["missing_keys"]) == {"lm_head.weight", "lm_head.bias"}
    assert not report["unexpected_keys"]
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[name], value), name


def test_saved_and_loaded(tmp_path):
    model = EncoderForCTC(EncoderForCTCConfig(encoder_config=data2vec2(), vocab_size=7)).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForCTC.from_pretrained(tmp_path).eval()
    waveforms = torch.randn(1, 4000)
    assert torch.equal(again(waveforms).logits, model(waveforms).logits)
    assert type(again) is EncoderForCTC
    assert again.config.inputs_to_logits_ratio == 320


def test_its_cnn_can_be_frozen():
    model = EncoderForCTC(EncoderForCTCConfig(encoder_config=data2vec2(), vocab_size=7))
    model.freeze_feature_encoder()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "feature_extractor." in name}
    assert frozen

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_ssl.tuners.fingerprint import fingerprint
from tests.families import classifier


@pytest.mark.parametrize("family", ["bert", "vit", "wav2vec2"])
def test_it_is_of_what_is_computed(family, tmp_path):
    """The same of a classifier's encoder and of the bare one that was saved; another after any change that counts."""
    model, _ = classifier(family)
    encoder = model.base_model
    before = fingerprint(encoder)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, hidden_dropout_prob=0.4, num_labels=7)
    assert fingerprint(AutoModel.from_pretrained(tmp_path, config=config)) == before

    parameter = next(p for name, p in encoder.named_parameters() if "layer" in name)
    with torch.no_grad():
        parameter.view(-1)[3] += 1e-3
    assert fingerprint(encoder) != before
    with torch.no_grad():
        parameter.copy_(
            dict(AutoModel.from_pretrained(tmp_path).named_parameters())[
                next(name for name, p in encoder.named_parameters() if p is parameter)
            ]
        )
    assert fingerprint(encoder) == before
    encoder.config.num_attention_heads = 1
    assert fingerprint(encoder) != before

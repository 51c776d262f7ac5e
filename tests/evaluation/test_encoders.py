import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, T5Config, T5Model

from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import load_encoder, modality_of, random_encoder
from tests.tiny import TINY
from tests.tiny_encoders import TRANSFORMER, save_image_encoder


def test_an_encoder_comes_with_its_preprocessor_in_fp32(tmp_path):
    folder = save_image_encoder(tmp_path)
    load_encoder(folder)[0].to(torch.bfloat16).save_pretrained(folder)
    encoder, processor = load_encoder(folder)
    assert modality_of(encoder) == "vision"
    assert encoder.dtype == torch.float32
    assert processor.size["height"] == 32


def test_random_encoders_are_known_by_their_seed(tmp_path):
    encoder, _ = load_encoder(save_image_encoder(tmp_path))
    state = torch.get_rng_state()
    first, again, other = (random_encoder(encoder, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.endswith("proj.weight")]
    assert weights
    for name in weights:
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], encoder.state_dict()[name])


def test_no_encoder_where_there_is_none(tmp_path):
    with pytest.raises(InputError, match=r"No encoder can be loaded from .*nothing"):
        load_encoder(tmp_path / "nothing")


def test_weights_that_are_no_weights(tmp_path):
    folder = save_image_encoder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(InputError, match="No encoder can be loaded"):
        load_encoder(folder)


def test_weights_of_another_architecture(tmp_path):
    """Transformers would fill in random ones and go on."""
    folder = save_image_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    removed = {name: value for name, value in weights.items() if ".layer.1." not in name}
    assert 0 < len(removed) < len(weights)
    save_file(removed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 16 weights of a ViTModel, such as layers\.1\."):
        load_encoder(folder)


def test_a_pretraining_checkpoint_is_not_an_encoder(tmp_path):
    TINY["simclr"]()[0].save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is the pretraining checkpoint of .*hf-ssl export"):
        load_encoder(tmp_path)


def test_an_encoder_decoder_is_not_an_encoder(tmp_path):
    T5Model(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=8)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is an encoder-decoder"):
        load_encoder(tmp_path)


def test_an_encoder_without_its_preprocessor(tmp_path):
    BertModel(BertConfig(**TRANSFORMER, vocab_size=8)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lacks the preprocessor"):
        load_encoder(tmp_path)


def test_colours_are_images():
    """ImageGPT's tokens have the name of a text's."""
    assert modality_of(TINY["igpt"]()[0].encoder) == "vision"


def test_an_encoder_of_no_modality():
    encoder = BertModel(BertConfig(**TRANSFORMER, vocab_size=8))
    encoder.main_input_name = "point_clouds"
    with pytest.raises(InputError, match="point_clouds"):
        modality_of(encoder)

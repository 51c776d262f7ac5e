import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.pooling import check_class_token, hidden_size_of, pool


def test_feature_map_is_averaged_over_positions():
    hidden = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)
    expected = torch.tensor([[hidden[b, d].sum() / 4 for d in range(3)] for b in range(2)])
    for pooling in ("mean", "cls"):
        assert torch.equal(pool(hidden, pooling), expected)


def test_sequence_mean_and_cls():
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(hidden, "mean"), sum(hidden[:, t] for t in range(5)) / 5)
    assert torch.equal(pool(hidden, "cls"), hidden[:, 0])


def test_masked_mean_ignores_padding_even_when_it_is_nan():
    hidden = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    padded = hidden.clone()
    padded[0, 2:] = float("nan")
    pooled = pool(padded, "mean", mask)
    torch.testing.assert_close(pooled[0], (hidden[0, 0] + hidden[0, 1]) / 2)
    torch.testing.assert_close(pooled[1], hidden[1].mean(0))


def test_row_without_any_kept_position_gives_zeros():
    assert torch.equal(pool(torch.ones(1, 2, 3), "mean", torch.zeros(1, 2)), torch.zeros(1, 3))


def test_colours_have_no_class_token():
    """ImageGPT reads pixels as a text's encoder reads tokens, but none of them stands for the whole."""
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 5, "n_positions": 4}
    with pytest.raises(InputError, match="'imagegpt' has no class token"):
        check_class_token(AutoModel.from_config(AutoConfig.for_model("imagegpt", **sizes)))


def test_unknown_pooling_names_the_nearest():
    with pytest.raises(InputError, match="mean"):
        pool(torch.zeros(1, 2, 3), "mena")


@pytest.mark.parametrize(
    ("model_type", "fields", "size"),
    [
        ("vit", {"hidden_size": 24}, 24),
        ("dinov2", {"hidden_size": 24}, 24),
        ("resnet", {"hidden_sizes": [8, 16]}, 16),
        ("convnext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, 16),
        ("swin", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}, 16),
        ("distilbert", {"dim": 40, "n_heads": 4}, 40),
        ("hubert", {"hidden_size": 24}, 24),
    ],
)
def test_hidden_size_of(model_type, fields, size):
    assert hidden_size_of(AutoConfig.for_model(model_type, **fields)) == size


def test_config_without_a_hidden_size():
    with pytest.raises(InputError, match="mobilenet_v2"):
        hidden_size_of(AutoConfig.for_model("mobilenet_v2"))

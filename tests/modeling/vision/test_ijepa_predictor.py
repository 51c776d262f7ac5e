import pytest
import torch
from transformers import ViTConfig

from hf_ssl.modeling.blocks.positions import NOWHERE
from hf_ssl.modeling.vision.ijepa_predictor import IJepaPredictor

GRID = (3, 4)


def build(attention="sdpa"):
    torch.manual_seed(0)
    layers = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        attn_implementation=attention,
    )
    predictor = IJepaPredictor(5, layers)
    torch.nn.init.normal_(predictor.mask_token)
    return predictor.eval()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_blocks_know_neither_each_other_nor_their_padding(attention):
    predictor, context = build(attention), torch.randn(2, 3, 5)
    seen = torch.tensor([[0, 1, 4], [2, 3, 7]])
    blocks = torch.tensor([[[5, 6, 9, 10], [6, 7, NOWHERE, NOWHERE]], [[8, 9, 10, NOWHERE], [0, 1, 4, 5]]])
    together = predictor(context, GRID, seen, blocks)
    assert together.shape == (2, 2, 4, 5)
    for image in range(2):
        for number, block in enumerate(blocks[image]):
            real = block[block != NOWHERE]
            alone = predictor(context[image : image + 1], GRID, seen[image : image + 1], real[None, None])
            torch.testing.assert_close(together[image, number, : len(real)], alone[0, 0])


@torch.no_grad()
def test_a_prediction_depends_on_its_position_and_on_those_of_the_context():
    predictor, context = build(), torch.randn(1, 3, 5)
    seen, block = torch.tensor([[0, 1, 4]]), torch.tensor([[[5, 6]]])
    there = predictor(context, GRID, seen, block)[0, 0]
    assert not torch.allclose(there[0], there[1])
    assert not torch.allclose(there, predictor(context, GRID, seen + 1, block)[0, 0])
    swapped = predictor(context[:, [1, 0, 2]], GRID, seen[:, [1, 0, 2]], block.flip(2))[0, 0]
    torch.testing.assert_close(swapped.flip(0), there)

import torch

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.positions import positions_of
from hf_ssl.modeling.blocks.view_masking import draw_view_mask, patch_weights


def test_masks_are_blocks_of_the_drawn_share() -> None:
    masks = [draw_view_mask((14, 14), item_generator(0, 0, i), 0.5, (0.1, 0.5)) for i in range(400)]
    shares = torch.tensor([mask.float().mean().item() for mask in masks])
    masked = shares[shares > 0]
    assert 0.4 < len(masked) / len(shares) < 0.6
    assert 0.25 < masked.mean() < 0.32  # a little less than .3, since the last block does not always fit
    assert masked.max() <= 0.5
    assert (masked > 0.4).any()
    assert (masked < 0.15).any()
    some = torch.stack([mask for mask in masks if mask.any()])
    right = (some[:, :, 1:] & some[:, :, :-1]).sum() / some[:, :, :-1].sum()
    assert right > 0.7  # of single patches it would be the share, .3


def test_masked_patches_of_a_view_share_its_weight() -> None:
    mask = torch.zeros(2, 2, 4, dtype=torch.bool)
    mask[0, 0, [0, 3]] = mask[0, 1, [1, 2, 3]] = mask[1, 1, 2] = True
    weights = patch_weights(mask, positions_of(mask.flatten(1)))
    torch.testing.assert_close(weights, torch.tensor([[1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0, 0, 0]]))
